"""A firm: its books, work, plans, market and risks, and what nobody sees directly."""

from __future__ import annotations

from dataclasses import dataclass

from wm_vec.canvas import Field
from wm_vec.schema.axes import HORIZON, REGION
from wm_vec.schema.fields import axis, daily, hourly, monthly, quarterly, weekly, yearly

SEGMENT = axis("segment", "core", "new", "services", "licences", "other")
TEAM = axis("team", "research", "production", "sales", "service", "administration")
CUSTOMER = axis("customer", "large firms", "small firms", "public sector", "households")
INPUT = axis("input", "labour", "materials", "energy", "logistics", "software")
USE = axis("use", "capital expenditure", "research", "acquisitions", "dividends", "debt")
PROJECT = axis("kind", "maintenance", "expansion", "efficiency", "software", "new business")
RIVAL = axis("rival", "leader", "follower", "entrant")
SITE = axis("site", "home", "region", "overseas", "contractors")
LENDER = axis("source", "banks", "bonds", "leases", "shareholders")
TIED = axis("item", "receivables", "stocks", "payables")
VIEW = axis("view", "sales", "margins", "growth", "management", "balance sheet")
TALK = axis("outlet", "press", "social media", "staff", "customers")
PILLAR = axis("pillar", "finances", "people", "products", "customers", "reputation")


@dataclass(frozen=True)
class Financials:
    """The books."""

    revenue: Field = monthly("million USD", "Sales", SEGMENT, low=0)
    revenue_growth: Field = monthly("% per year", "Growth of sales", SEGMENT)
    regional_revenue: Field = quarterly("million USD", "Sales", REGION, low=0)
    recurring_revenue: Field = monthly("share", "Sales under contract", SEGMENT)
    gross_margin: Field = monthly("% of sales", "Gross margin", SEGMENT)
    operating_margin: Field = monthly("% of sales", "Operating margin", SEGMENT)
    opex: Field = monthly("million USD", "Operating expenses", TEAM, low=0)
    input_costs: Field = monthly("million USD", "Cost of inputs", INPUT, low=0)
    capex: Field = quarterly("million USD", "Capital expenditure", PROJECT, low=0)
    fcf: Field = monthly("million USD", "Free cash flow", SEGMENT)
    cash: Field = weekly("million USD", "Cash and equivalents", low=0)
    debt: Field = quarterly("million USD", "Debt", LENDER, low=0)
    net_debt_to_ebitda: Field = quarterly("ratio", "Net debt over EBITDA")
    interest_cover: Field = quarterly("ratio", "Operating profit over interest")
    working_capital: Field = monthly("days of sales", "Money tied up", TIED, low=0)
    return_on_capital: Field = quarterly("% per year", "Return on invested capital", SEGMENT)
    tax_rate: Field = yearly("share", "Taxes over profit", REGION)


@dataclass(frozen=True)
class Operations:
    """The work."""

    utilization: Field = weekly("share", "Capacity in use", SITE)
    capacity: Field = quarterly("1 = start of year", "Capacity", SITE, low=0)
    throughput: Field = daily("1 = plan", "Output", SITE, low=0)
    headcount: Field = monthly("people", "Staff", TEAM, low=0)
    hiring: Field = monthly("people per month", "New staff", TEAM, low=0)
    attrition: Field = monthly("% per year", "Staff who leave", TEAM, low=0)
    employee_satisfaction: Field = monthly("index", "Satisfaction of staff", TEAM)
    productivity: Field = monthly("1 = start of year", "Output per hour", TEAM, low=0)
    overtime: Field = weekly("% of hours", "Hours beyond the contract", TEAM, low=0)
    training: Field = quarterly("days per year", "Training of each", TEAM, low=0)
    quality_incidents: Field = weekly("per thousand units", "Faults found", SEGMENT, low=0)
    safety_incidents: Field = monthly("per million hours", "Accidents", SITE, low=0)
    on_time_delivery: Field = weekly("share", "Orders delivered on time", REGION)
    order_backlog: Field = weekly("weeks of sales", "Orders not yet filled", SEGMENT, low=0)
    inventory: Field = weekly("days of sales", "Finished goods in stock", SEGMENT, low=0)
    supplier_reliability: Field = weekly("share", "Inputs that come on time", INPUT)
    tech_debt: Field = quarterly("index", "Work that old systems will cost", SEGMENT)
    automation: Field = quarterly("share", "Work done by machines", TEAM)
    system_uptime: Field = hourly("share", "Hours in which systems run", SITE)
    energy_use: Field = monthly("GWh", "Energy used", SITE, low=0)
    emissions: Field = quarterly("kilotonnes CO2e", "Emissions", SITE, low=0)


@dataclass(frozen=True)
class Strategy:
    """The plans: what management decides."""

    capital_allocation: Field = quarterly("balance", "Money against last year's mix, from less to more", USE)
    capex_plan: Field = quarterly("balance", "Capital expenditure, from deep cuts to build-out", PROJECT)
    m_and_a_appetite: Field = quarterly("balance", "From selling parts to buying firms", SEGMENT)
    geographic_expansion: Field = quarterly("balance", "From retreat to expansion", REGION)
    research_focus: Field = quarterly("share", "Research budget", SEGMENT)
    pricing_stance: Field = monthly("balance", "From discounts to price rises", SEGMENT)
    cost_discipline: Field = monthly("balance", "From spending to saving", TEAM)
    hiring_plan: Field = quarterly("balance", "Staff, from cuts to growth", TEAM)
    product_roadmap: Field = quarterly("index", "Progress against plan", SEGMENT)
    partnerships: Field = quarterly("index", "Depth of alliances", REGION)
    vertical_integration: Field = yearly("share", "Inputs made in the house", INPUT)
    dividend_policy: Field = yearly("share", "Profit paid out")
    leverage_target: Field = yearly("ratio", "Net debt over EBITDA aimed at")
    guidance: Field = quarterly("balance", "Outlook given, from warning to upgrade", HORIZON)
    sustainability: Field = yearly("index", "Weight of environmental aims")


@dataclass(frozen=True)
class Market:
    """How others see and meet the firm."""

    equity_price: Field = hourly("1 = start of year", "Price of a share", low=0)
    implied_volatility: Field = daily("% per year", "Volatility that options price", HORIZON, low=0)
    trading_volume: Field = daily("million shares", "Shares traded", low=0)
    short_interest: Field = weekly("share", "Shares sold short")
    analyst_consensus: Field = weekly("balance", "Analysts, from sell to buy", VIEW)
    expected_earnings: Field = weekly("USD per share", "Earnings that analysts expect", HORIZON)
    credit_spread: Field = daily("basis points", "Yield above government bonds", HORIZON)
    market_share: Field = quarterly("share", "Part of the market", REGION)
    rival_share: Field = quarterly("share", "Part of the market", RIVAL)
    rival_pricing: Field = monthly("balance", "Rivals' prices, from cuts to rises", RIVAL)
    demand: Field = weekly("% per year", "Growth of orders", CUSTOMER)
    customer_satisfaction: Field = monthly("index", "Satisfaction", CUSTOMER)
    churn: Field = monthly("% per year", "Customers who leave", CUSTOMER, low=0)
    pipeline: Field = weekly("million USD", "Sales under negotiation", CUSTOMER, low=0)
    brand: Field = quarterly("index", "Strength of the brand", REGION)
    sentiment: Field = daily("balance", "Talk about the firm, from bad to good", TALK)


@dataclass(frozen=True)
class Risk:
    """What may go wrong."""

    key_person_risk: Field = quarterly("index", "Dependence on single people", TEAM)
    customer_concentration: Field = quarterly("share", "Sales to the five largest", SEGMENT)
    supplier_concentration: Field = quarterly("share", "Purchases from the largest", INPUT)
    legal: Field = monthly("million USD", "Claims that are likely to be paid", REGION, low=0)
    regulatory: Field = monthly("index", "Threat from new rules", REGION)
    cyber: Field = daily("index", "Threat to systems", SITE)
    refinancing: Field = monthly("million USD", "Debt that falls due", HORIZON, low=0)
    currency: Field = monthly("% of sales", "Sales in foreign currency, not hedged", REGION, low=0)
    climate: Field = yearly("index", "Exposure to weather and carbon prices", SITE)
    reputation: Field = weekly("index", "Threat to the firm's name", TALK)


@dataclass(frozen=True)
class Business:
    """A firm, an entity of a world."""

    financials: Financials = Financials()
    operations: Operations = Operations()
    strategy: Strategy = Strategy()
    market: Market = Market()
    risk: Risk = Risk()
    latent_health: Field = monthly("balance", "True condition, from failing to thriving", PILLAR)
    latent_momentum: Field = monthly("balance", "Where that is going, from down to up", PILLAR)
    latent_tail_risk: Field = monthly("share", "Chance of a collapse within a year", PILLAR)
    latent_culture: Field = quarterly("balance", "Culture, from fear to trust", TEAM)
    latent_adaptability: Field = quarterly("index", "Readiness for change", TEAM)
