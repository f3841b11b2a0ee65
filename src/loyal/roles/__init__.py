"""The actors of the protocol ("Training AI to be Loyal", Figures 1 to 3), torch-free.

So far without models: a simulated community, in which hosts, provers, verifiers and adversaries
drive the real rules; and the plan of how many keys a license needs.

    from loyal.roles import Cheating, PlanRequest, Scenario
    from loyal.roles.planning import plan
    from loyal.roles.simulation import simulate

    outcome = simulate(Scenario(seed=7), interactions=500)
    assert outcome.innocent_slashed == 0 and outcome.broken == ()

    cheating = Cheating(skip_share=0.5, survival=0.9)
    assert plan(PlanRequest(cheating, inferences=100_000)).keys == 62

Nouns are exported here; verbs are modules: `simulation`, `planning`.
"""

from loyal.roles.planning import Cheating, Plan, PlanRequest
from loyal.roles.scenario import Detection, Outcome, Scenario

__all__ = ["Cheating", "Detection", "Outcome", "Plan", "PlanRequest", "Scenario"]
