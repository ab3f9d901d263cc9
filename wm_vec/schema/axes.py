"""What the positions of fields stand for, where several domains share it."""

from wm_vec.schema.fields import axis

AGE = axis("age", "below 18", "18 to 34", "35 to 64", "65 and above")
BLOC = axis("economy", "United States", "euro area", "China", "rest of the world")
HORIZON = axis("horizon", "next quarter", "next year", "three years")
MATURITY = axis("maturity", "3 months", "2 years", "5 years", "10 years", "30 years")
REGION = axis("region", "North America", "Latin America", "Europe", "Africa and Middle East", "Asia and Pacific")
RATING = axis("rating", "A and above", "BBB", "BB", "B", "CCC and below")
