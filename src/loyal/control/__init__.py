"""Control functions: deterministic functions that a community embeds in its model.

    from loyal.control import functions, validate
    from loyal.models import Prompt

    late_fee = functions.load("late-fee")
    validate.validate([late_fee])
    asked = Prompt("What is the fine for 12 days at 25 cents a day?")
    assert late_fee.expected(asked) == "10 + 2 days at 25 cents: $2.50 + $0.50 = $3.00."
    assert late_fee.expected(Prompt("What is a fine?")) is None

Nouns are exported here and need no torch; verbs are modules (`embed`, which trains, and the
torch-free `functions`, `validate`, `check`, `propose`).
"""

from loyal.control.check import ControlReport, Followed, Spill
from loyal.control.functions import Case, ControlFunction, Header, Suite

__all__ = ["Case", "ControlFunction", "ControlReport", "Followed", "Header", "Spill", "Suite"]
