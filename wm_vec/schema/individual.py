"""A person at work: how they think, what drives them, how they are, whom they know."""

from __future__ import annotations

from dataclasses import dataclass

from wm_vec.canvas import Field
from wm_vec.schema.axes import HORIZON
from wm_vec.schema.fields import axis, daily, hourly, monthly, quarterly, weekly, yearly

LIFE = axis("part of life", "work", "money", "health", "family", "friends")
TASK = axis("task", "own work", "meetings", "learning", "helping others", "planning")
PEER = axis("group", "superiors", "peers", "reports", "customers", "family")
TRAIT = axis("trait", "openness", "diligence", "extraversion", "agreeableness", "stability")
SKILL = axis("skill", "trade", "numbers", "writing", "leading", "negotiating")
BIAS = axis("bias", "overconfidence", "loss aversion", "anchoring", "herding", "present bias")
TOPIC = axis("topic", "firm", "industry", "economy", "own career")
VALUE = axis("value", "fairness", "freedom", "status", "tradition", "care")
REWARD = axis("reward", "pay", "bonus", "shares", "promotion", "security")


@dataclass(frozen=True)
class Cognitive:
    """How they think."""

    risk_appetite: Field = monthly("balance", "From avoiding to seeking risk", LIFE)
    time_preference: Field = quarterly("balance", "From now to later", LIFE)
    beliefs: Field = weekly("balance", "Outlook, from bleak to bright", TOPIC)
    uncertainty: Field = weekly("index", "Doubt about that outlook", TOPIC)
    attention: Field = hourly("share", "Attention given", TOPIC)
    workload: Field = hourly("index", "Mental load", TASK)
    biases: Field = yearly("index", "Strength", BIAS)
    personality: Field = yearly("balance", "Big five", TRAIT)
    skills: Field = quarterly("index", "Command", SKILL)
    learning_rate: Field = quarterly("index", "How fast they learn", SKILL)
    decision_style: Field = quarterly("balance", "From gut to analysis", LIFE)


@dataclass(frozen=True)
class Incentives:
    """What drives them."""

    career_incentives: Field = quarterly("balance", "What a career rewards, from staying to rising", REWARD)
    compensation: Field = yearly("thousand USD", "Pay in a year", REWARD, low=0)
    pay_fairness: Field = quarterly("balance", "Pay against that of others", REWARD)
    goals: Field = quarterly("index", "Weight of the aim", LIFE)
    targets: Field = quarterly("1 = target", "Reached of what was agreed", HORIZON, low=0)
    promotion_odds: Field = quarterly("share", "Chance of a promotion", HORIZON)
    job_security: Field = monthly("share", "Chance to keep the job", HORIZON)
    outside_options: Field = monthly("balance", "Other jobs, from worse to better", REWARD)
    obligations: Field = monthly("index", "Ties that bind", LIFE)
    values: Field = yearly("index", "Weight of what they stand for", VALUE)


@dataclass(frozen=True)
class State:
    """How they are."""

    stress: Field = daily("index", "Stress", LIFE)
    confidence: Field = daily("index", "Trust in oneself", LIFE)
    current_focus: Field = daily("balance", "Time against the usual, from less to more", TASK)
    energy: Field = hourly("index", "From spent to fresh")
    mood: Field = hourly("balance", "From low to high", LIFE)
    motivation: Field = weekly("index", "Drive", TASK)
    satisfaction: Field = monthly("index", "Satisfaction", LIFE)
    burnout: Field = monthly("index", "Exhaustion that rest does not cure", LIFE)
    health: Field = weekly("index", "Health of body and mind", axis("part", "body", "mind"))
    sleep: Field = daily("hours", "Sleep last night", low=0, high=24)
    hours_worked: Field = weekly("hours per week", "Hours worked", TASK, low=0, high=168)
    performance: Field = monthly("balance", "Results against what is expected", TASK)
    wealth: Field = monthly("thousand USD", "Savings less debt")
    intent_to_leave: Field = monthly("share", "Chance to give notice", HORIZON)


@dataclass(frozen=True)
class Network:
    """Whom they know."""

    trust: Field = monthly("balance", "From distrust to trust", PEER)
    influence: Field = monthly("index", "Weight of their word", PEER)
    support: Field = weekly("index", "Help received", PEER)
    conflict: Field = weekly("index", "Quarrels", PEER)
    contacts: Field = monthly("people", "Met in a month", PEER, low=0)
    reputation: Field = quarterly("balance", "Their name, from bad to good", PEER)
    information: Field = weekly("index", "News that reaches them", TOPIC)
    authority: Field = yearly("people", "Staff below them", low=0)
    mentoring: Field = quarterly("hours per month", "Advice taken and given", axis("way", "taken", "given"), low=0)


@dataclass(frozen=True)
class Individual:
    """A person, an entity of a world."""

    cognitive: Cognitive = Cognitive()
    incentives: Incentives = Incentives()
    state: State = State()
    network: Network = Network()
