"""The working calendar of the ready-made worlds: a tick is a working hour."""

TICKS = {"hour": 1, "day": 8, "week": 48, "month": 192, "quarter": 576, "year": 2304}
"""Ticks of each period: a day has 8 working hours, a week 6 days, a month 4 weeks, a year 4 quarters of 3 months."""
