"""Financial markets: prices, spreads, flows and what they say about risk."""

from __future__ import annotations

from dataclasses import dataclass

from wm_vec.canvas import Field
from wm_vec.schema.axes import BLOC, HORIZON, MATURITY, RATING, REGION
from wm_vec.schema.fields import axis, daily, hourly, monthly, quarterly, weekly

MARKET = axis("market", "US large", "US small", "Europe", "Japan", "China", "emerging")
FACTOR = axis("factor", "value", "size", "momentum", "quality", "low volatility")
CURRENCY = axis("currency", "EUR", "JPY", "GBP", "CNY", "CHF", "emerging basket")
ENERGY = axis("fuel", "crude oil", "natural gas", "coal", "power")
METAL = axis("metal", "gold", "silver", "copper", "iron ore", "lithium")
CROP = axis("crop", "wheat", "maize", "soy", "rice", "coffee")
EXPIRY = axis("expiry", "1 week", "1 month", "3 months", "1 year", "2 years")
TOKEN = axis("token", "bitcoin", "ether", "stablecoins")
INVESTOR = axis("investor", "households", "funds", "banks", "foreigners")


@dataclass(frozen=True)
class Equities:
    """Stock markets."""

    index_level: Field = hourly("1 = start of year", "Level of the index", MARKET, low=0)
    returns: Field = daily("% per day", "Return of the index", MARKET)
    dividend_yield: Field = monthly("% per year", "Dividends over price", MARKET, low=0)
    price_to_earnings: Field = daily("ratio", "Price over expected earnings", MARKET)
    earnings_growth: Field = quarterly("% per year", "Growth of earnings per share", MARKET)
    earnings_revisions: Field = weekly("balance", "Analysts' revisions, from all down to all up", MARKET)
    implied_volatility: Field = hourly("% per year", "Volatility that options price", MARKET, low=0)
    turnover: Field = daily("billion USD", "Shares traded", MARKET, low=0)
    breadth: Field = daily("share", "Stocks above their 200-day average", MARKET)
    factor_returns: Field = weekly("% per week", "Return of a long-short portfolio", FACTOR)
    fund_flows: Field = weekly("billion USD", "Net purchases", INVESTOR)
    short_interest: Field = weekly("share", "Shares sold short")
    issuance: Field = monthly("billion USD", "New shares sold", REGION, low=0)


@dataclass(frozen=True)
class Credit:
    """Corporate and household credit."""

    spreads: Field = daily("basis points", "Yield above government bonds", RATING)
    default_rate: Field = monthly("share", "Debt that defaults within a year", RATING)
    recovery_rate: Field = quarterly("share", "Debt recovered after default", RATING)
    issuance: Field = monthly("billion USD", "New corporate bonds", RATING, low=0)
    downgrades: Field = monthly("balance", "Ratings, from all lowered to all raised", REGION)
    lending_standards: Field = quarterly("balance", "Banks' standards, from eased to tightened", BLOC)
    loan_growth: Field = monthly("% per year", "Growth of bank loans", BLOC)
    household_debt: Field = quarterly("% of income", "Household debt", BLOC, low=0)
    corporate_leverage: Field = quarterly("ratio", "Net debt over EBITDA", BLOC)
    maturity_wall: Field = quarterly("billion USD", "Corporate debt that falls due", HORIZON, low=0)


@dataclass(frozen=True)
class YieldCurves:
    """Government bonds."""

    us: Field = hourly("% per year", "Yield of US government bonds", MATURITY)
    euro: Field = hourly("% per year", "Yield of German government bonds", MATURITY)
    japan: Field = hourly("% per year", "Yield of Japanese government bonds", MATURITY)
    china: Field = daily("% per year", "Yield of Chinese government bonds", MATURITY)
    real: Field = daily("% per year", "Yield of US inflation-linked bonds", MATURITY)
    term_premium: Field = daily("% per year", "Premium for holding long bonds", BLOC)
    policy_rate: Field = monthly("% per year", "Central bank's rate", BLOC)
    expected_rate: Field = daily("% per year", "Expected US policy rate", HORIZON)
    balance_sheet: Field = weekly("% of GDP", "Central bank's assets", BLOC, low=0)


@dataclass(frozen=True)
class ForeignExchange:
    """Currencies."""

    spot: Field = hourly("1 = start of year", "Value in USD", CURRENCY, low=0)
    carry: Field = daily("% per year", "Interest above USD", CURRENCY)
    implied_volatility: Field = daily("% per year", "Volatility that options price", CURRENCY, low=0)
    positioning: Field = weekly("balance", "Speculators, from all short to all long", CURRENCY)
    real_exchange_rate: Field = monthly("1 = ten-year mean", "Trade-weighted real value", CURRENCY, low=0)
    reserves: Field = monthly("billion USD", "Reserves of central banks", REGION, low=0)
    dollar_index: Field = hourly("1 = start of year", "Trade-weighted value of USD", low=0)


@dataclass(frozen=True)
class Commodities:
    """Prices of raw materials; what lies in the ground is in `resources`."""

    energy_prices: Field = hourly("1 = start of year", "Price", ENERGY)
    metal_prices: Field = hourly("1 = start of year", "Price", METAL, low=0)
    crop_prices: Field = daily("1 = start of year", "Price", CROP, low=0)
    curve_slope: Field = daily("% per year", "Twelve-month future over spot price", ENERGY)
    inventories: Field = weekly("days of use", "Stocks", ENERGY, low=0)
    freight_rates: Field = weekly("1 = start of year", "Dry bulk freight rate", low=0)
    positioning: Field = weekly("balance", "Speculators, from all short to all long", METAL)


@dataclass(frozen=True)
class Volatility:
    """Prices of risk."""

    term_structure: Field = hourly("% per year", "Implied volatility of US equities", EXPIRY, low=0)
    skew: Field = daily("% per year", "Implied volatility of falls above rises", MARKET)
    rates: Field = daily("basis points per year", "Implied volatility of US yields", MATURITY, low=0)
    tail_hedging: Field = weekly("index", "Demand for insurance against crashes")


@dataclass(frozen=True)
class Liquidity:
    """How easily assets and money are had."""

    bid_ask: Field = hourly("basis points", "Spread between bid and ask", MARKET, low=0)
    depth: Field = hourly("million USD", "Orders within 1 % of the price", MARKET, low=0)
    repo_rate: Field = daily("% per year", "Overnight rate on collateral", BLOC)
    money_growth: Field = monthly("% per year", "Growth of broad money", BLOC)
    dollar_basis: Field = daily("basis points", "Premium for borrowing USD", CURRENCY)
    margin_debt: Field = monthly("billion USD", "Borrowing against securities", low=0)


@dataclass(frozen=True)
class Banking:
    """Banks."""

    capital_ratio: Field = quarterly("share", "Core capital over weighted assets", BLOC)
    loan_losses: Field = quarterly("share", "Loans that are not repaid", BLOC)
    deposits: Field = weekly("% per year", "Growth of deposits", BLOC)
    interest_margin: Field = quarterly("% per year", "Net interest margin", BLOC)
    stress: Field = daily("index", "Stress of the banking system", BLOC)


@dataclass(frozen=True)
class Digital:
    """Crypto assets."""

    prices: Field = hourly("1 = start of year", "Price in USD", TOKEN, low=0)
    volume: Field = daily("billion USD", "Value traded", TOKEN, low=0)
    adoption: Field = monthly("share", "Adults who hold any")


@dataclass(frozen=True)
class Financial:
    """All markets."""

    equities: Equities = Equities()
    credit: Credit = Credit()
    yield_curves: YieldCurves = YieldCurves()
    fx: ForeignExchange = ForeignExchange()
    commodities: Commodities = Commodities()
    volatility: Volatility = Volatility()
    liquidity: Liquidity = Liquidity()
    banking: Banking = Banking()
    digital: Digital = Digital()
