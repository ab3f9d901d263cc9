"""A country: economy, state, people and standing."""

from __future__ import annotations

from dataclasses import dataclass

from wm_vec.canvas import Field
from wm_vec.schema.axes import AGE, HORIZON, MATURITY, REGION
from wm_vec.schema.fields import axis, daily, monthly, quarterly, weekly, yearly

DEMAND = axis("demand", "consumption", "investment", "government", "exports", "imports")
BRANCH = axis("branch", "farming", "industry", "construction", "services")
PRICE = axis("prices", "food", "energy", "goods", "services", "rents")
POWER = axis("power", "government", "parliament", "courts", "press")


@dataclass(frozen=True)
class Economy:
    """Output, prices, jobs, money."""

    gdp_growth: Field = quarterly("% per year", "Growth of real demand", DEMAND)
    output: Field = monthly("% per year", "Growth of output", BRANCH)
    inflation: Field = monthly("% per year", "Change of consumer prices", PRICE)
    unemployment: Field = monthly("share", "Labour force without work", AGE)
    wages: Field = monthly("% per year", "Growth of wages", BRANCH)
    productivity: Field = yearly("% per year", "Growth of output per hour", BRANCH)
    policy_rate: Field = monthly("% per year", "Central bank's rate")
    yields: Field = daily("% per year", "Yield of government bonds", MATURITY)
    exchange_rate: Field = daily("1 = start of year", "Value in USD", low=0)
    credit_growth: Field = monthly("% per year", "Growth of bank loans", BRANCH)
    house_prices: Field = monthly("% per year", "Change of house prices")
    confidence: Field = monthly("balance", "Of firms, from bleak to bright", BRANCH)


@dataclass(frozen=True)
class PublicSector:
    """Budget, politics, institutions."""

    budget_balance: Field = quarterly("% of GDP", "Revenue less spending", HORIZON)
    debt: Field = quarterly("% of GDP", "Public debt", low=0)
    tax_burden: Field = yearly("% of GDP", "Taxes", low=0)
    rating_outlook: Field = quarterly("balance", "Rating, from cut to raise")
    approval: Field = monthly("share", "People content with the government", AGE)
    stability: Field = weekly("index", "Odds that the government lasts", HORIZON)
    institutions: Field = yearly("index", "Independence", POWER)
    corruption: Field = yearly("index", "Corruption", POWER)
    protest: Field = weekly("index", "Strikes and protests")
    reform: Field = quarterly("balance", "From reversal to reform", BRANCH)


@dataclass(frozen=True)
class Society:
    """People."""

    population: Field = yearly("million", "People", AGE, low=0)
    fertility: Field = yearly("children per woman", "Fertility", low=0)
    life_expectancy: Field = yearly("years", "Life expectancy at birth", low=0)
    migration: Field = quarterly("thousand per year", "Net arrivals", AGE)
    education: Field = yearly("share", "Adults who finished secondary school")
    inequality: Field = yearly("index", "Gini coefficient of incomes")
    trust: Field = quarterly("index", "Trust in others and the state", AGE)


@dataclass(frozen=True)
class External:
    """The country among others."""

    trade_balance: Field = monthly("% of GDP", "Exports less imports", REGION)
    tariffs: Field = quarterly("% of value", "Tariffs on imports", REGION, low=0)
    foreign_investment: Field = quarterly("% of GDP", "Net direct investment", REGION)
    reserves: Field = monthly("months of imports", "Currency reserves", low=0)
    relations: Field = weekly("balance", "From hostile to allied", REGION)
    sanctions: Field = monthly("index", "Sanctions suffered", REGION)
    military_spending: Field = yearly("% of GDP", "Military spending", low=0)
    conflict_risk: Field = weekly("share", "Chance of armed conflict within a year", REGION)


@dataclass(frozen=True)
class Country:
    """A country, an entity of a world."""

    economy: Economy = Economy()
    public: PublicSector = PublicSector()
    society: Society = Society()
    external: External = External()
