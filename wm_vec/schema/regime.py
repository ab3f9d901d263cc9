"""The regime: slow states of the world economy that everything else depends on."""

from __future__ import annotations

from dataclasses import dataclass

from wm_vec.canvas import Field
from wm_vec.schema.axes import BLOC
from wm_vec.schema.fields import axis, daily, monthly, quarterly, weekly

ASSET = axis("asset class", "equities", "bonds", "currencies", "commodities")


@dataclass(frozen=True)
class Regime:
    """Growth, inflation, policy, risk."""

    growth_regime: Field = monthly("balance", "Growth, from contraction to boom", BLOC)
    inflation_regime: Field = monthly("balance", "Inflation, from deflation to runaway prices", BLOC)
    monetary_stance: Field = monthly("balance", "Monetary policy, from loose to tight", BLOC)
    fiscal_stance: Field = quarterly("balance", "Public budgets, from saving to spending", BLOC)
    credit_cycle: Field = quarterly("balance", "Credit, from repair to excess", BLOC)
    recession_odds: Field = monthly("share", "Chance of a recession within a year", BLOC)
    volatility: Field = weekly("% per year", "Volatility of markets", ASSET, low=0)
    correlation: Field = monthly("balance", "Correlation with the other classes", ASSET)
    risk_sentiment: Field = daily("balance", "Investors' mood, from fear to greed")
    liquidity: Field = weekly("balance", "Funding, from frozen to abundant")
    geopolitical_tension: Field = weekly("index", "Tension between states", BLOC)
    trade_openness: Field = quarterly("index", "Openness to trade", BLOC)
