/* Included by module.c once per floating dtype, with REAL, WORD (an unsigned integer of its size), EXPONENT (the bits
 * that are all set in infinities and NaN alone) and NAME defined. */

static int NAME(all_finite)(const REAL *values, int64_t count)
{
    int bad = 0;
    for (int64_t i = 0; i < count; i++) {
        WORD word;
        memcpy(&word, values + i, sizeof word);
        bad |= (word & EXPONENT) == EXPONENT;
    }
    return !bad;
}

static void NAME(pick)(REAL *out, const REAL *row, const int64_t *columns, int64_t count)
{
    for (int64_t j = 0; j < count; j++)
        out[j] = row[columns[j]];
}

/* Numbers keep to their bounds, NaN stays; returns whether all were finite. */
static int NAME(write)(const Write *w)
{
    const REAL *low = w->low, *high = w->high, *numbers = w->action;
    const int64_t *classes = w->action;
    REAL *out = w->out;
    memcpy(out, w->values, (size_t)(w->rows * w->width) * sizeof(REAL));
    for (int64_t i = 0; i < w->rows; i++, out += w->width) {
        for (int64_t j = 0; j < w->num_columns; j++) {
            REAL number;
            if (w->whole) {
                int64_t class = classes[i * w->num_columns + j] - w->offset;
                number = class < (int64_t)low[j] ? low[j] : class > (int64_t)high[j] ? high[j] : (REAL)class;
            } else {
                number = numbers[i * w->num_columns + j];
                number = number < low[j] ? low[j] : number > high[j] ? high[j] : number;
            }
            out[w->columns[j]] = number;
        }
    }
    return w->whole || NAME(all_finite)(numbers, w->rows * w->num_columns);
}

/* What ends: fills the flags and returns the number of finished rows, whose indices go to `ended`. */
static int64_t NAME(judge)(const Step *s, uint8_t *flags, int64_t *ended)
{
    const REAL *row = s->values;
    uint8_t *terminated = flags, *truncated = flags + s->rows, *finished = flags + 2 * s->rows;
    int64_t count = 0;
    memset(flags + 3 * s->rows, 0, (size_t)(3 * s->rows));
    for (int64_t i = 0; i < s->rows; i++, row += s->width) {
        terminated[i] = s->terminated_column >= 0 && row[s->terminated_column] > (REAL)0.5;
        truncated[i] = s->horizon > 0 && s->clock - s->began[i] >= s->horizon;
        finished[i] = terminated[i] | truncated[i];
        if (finished[i])
            ended[count++] = i;
    }
    return count;
}

/* Counts the step: rewards, sums, lengths. */
static void NAME(count)(const Step *s)
{
    const REAL *row = s->values;
    REAL *reward = s->reward, *returns = s->returns, *sums = s->sums;
    for (int64_t i = 0; i < s->rows; i++, row += s->width) {
        reward[i] = s->reward_column >= 0 ? row[s->reward_column] : (REAL)0;
        returns[i] += reward[i];
        if (sums)
            sums[i] = returns[i];
        if (s->lengths)
            s->lengths[i] = s->clock - s->began[i];
    }
}

/* Begins the next episodes of the rows `ended`, and shows every row before and after that. */
static void NAME(restart)(const Step *s, const int64_t *ended, int64_t count)
{
    const REAL *values = s->values, *bank = s->bank;
    REAL *state = s->state, *returns = s->returns;
    if (s->bank && count)
        memcpy(state, values, (size_t)(s->rows * s->width) * sizeof(REAL));
    for (int64_t i = 0; s->observation && i < s->rows; i++)
        NAME(pick)((REAL *)s->observation + i * s->num_picked, values + i * s->width, s->picked, s->num_picked);
    if (s->observation && s->fresh)
        memcpy(s->fresh, s->observation, (size_t)(s->rows * s->num_picked) * sizeof(REAL));
    for (int64_t k = 0; s->bank && k < count; k++) {
        int64_t i = ended[k], episode = ++s->episode[i];
        const REAL *start = bank + s->places[i * s->depth + episode - s->first[i]] * s->width;
        s->began[i] = s->clock;
        returns[i] = 0;
        memcpy(state + i * s->width, start, (size_t)s->width * sizeof(REAL));
        if (s->fresh)
            NAME(pick)((REAL *)s->fresh + i * s->num_picked, start, s->picked, s->num_picked);
    }
}
