"""Rating: usage becomes exact amounts of money, by the price in force at its hour."""
