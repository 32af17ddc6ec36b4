"""Operators that ask a model: what they tell it and how a step goes. The protocol is `operators/operator.py`."""
