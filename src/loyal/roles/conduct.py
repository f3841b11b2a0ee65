"""How the parties of a simulated community behave: hosts by conduct, honest provers, the platform
with its vault, verifiers. Left out: the adversaries (`attacks`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from loyal.protocol import Answer, SignedAnswer, convictions, disputes, licenses, stake, voting
from loyal.protocol import events as e
from loyal.protocol.answers import message_digest
from loyal.protocol.permission import Receipt
from loyal.roles.scenario import INNOCENT
from loyal.roles.world import DAY, STAKE, Deal, World


@dataclass(frozen=True)
class Heard:
    """What whoever asks a host gets."""

    text: str
    answer: SignedAnswer | None
    """None where the host signs nothing."""
    cleared: bool
    """Whether the answer carries its permission, and that had not expired."""


def ask(world: World, deal: Deal, message: str) -> Heard | None:
    """Ask a host; None where it refuses, having no permission. One that skips a permission shows an
    old one for the same message, if it has one."""
    permitted = None
    if _takes_permission(world, deal, message):
        if not world.active(deal):
            return None
        permitted = world.permit(deal, message)
    text = world.reply(deal, message)
    if deal.conduct == "silent" and permitted is None:
        return Heard(text, None, False)
    shown = permitted or next(iter(deal.receipts.get(message, ())), None)
    if deal.conduct == "forgetful":
        shown = None
    cleared = shown is not None and world.now <= shown[0].permission.expires
    return Heard(text, sign(world, deal, message, text, shown), cleared)


def _takes_permission(world: World, deal: Deal, message: str) -> bool:
    if deal.conduct in INNOCENT or (deal.conduct == "careful" and message in deal.known):
        return True
    return world.rng.random() >= world.scenario.skip_share


def sign(
    world: World, deal: Deal, message: str, text: str, permitted: tuple[Receipt, bytes] | None
) -> SignedAnswer:
    """The answer that the host signs now."""
    receipt, salts = (permitted[0], (permitted[1],)) if permitted else (None, ())
    asked = (message_digest(message),)
    answer = Answer(deal.license, asked, message_digest(text), receipt, salts, time=world.now)
    return answer.sign(deal.host)


def meet_demand(world: World, deal: Deal, made: e.AnswerDemanded) -> None:
    """A host that is online answers what is demanded, with a permission while it can get one."""
    permitted = world.permit(deal, made.message) if world.active(deal) else None
    answer = sign(world, deal, made.message, world.reply(deal, made.message), permitted)
    world.do(disputes.GiveAnswer(deal.id, made.demand, answer))


def draw(world: World, deal: Deal) -> e.KeyDrawn | None:
    """The platform has the license's next key drawn."""
    found = world.do(disputes.DrawKey(world.platform.public.data, deal.license))
    return next((one for one in found if isinstance(one, e.KeyDrawn)), None)


def probe(world: World, deal: Deal, drawn: e.KeyDrawn) -> None:
    """An honest prover asks the key that was drawn for it, and claims what has no permission."""
    key = deal.keys[drawn.number]
    heard = ask(world, deal, key)
    if heard is None or heard.cleared:
        return
    salt = world.fresh()
    fixed = disputes.commitment(key, heard.text, salt, drawn.prover)
    world.do(disputes.Commit(drawn.prover, deal.license, fixed))
    made = disputes.MakeClaim(drawn.prover, deal.license, key, heard.text, salt, heard.answer)
    if heard.answer is not None:
        accuse(world, deal, made)
        return
    world.do(disputes.DemandAnswer(drawn.prover, deal.license, key))
    world.later(world.scenario.parameters.answer_seconds + 1, partial(accuse, world, deal, made))


def accuse(world: World, deal: Deal, made: disputes.MakeClaim, adverse: bool = False) -> None:
    """A claim, and where it is accepted all that follows."""
    for event in world.do(made, adverse):
        if isinstance(event, e.Claimed):
            world.claimed[event.claim] = deal, made.key, made.reply
            if deal.conduct == "honest":
                world.tally.surprises.append("a claim against an honest host was accepted")
            wait = world.rng.randrange(world.scenario.parameters.opening_seconds)
            world.later(wait, partial(open_leaf, world, event.claim))


def open_leaf(world: World, claim: bytes) -> None:
    """The vault's side opens a leaf where there is one."""
    deal, key, _ = world.claimed[claim]
    parameters = world.scenario.parameters
    if key not in deal.known:
        world.later(parameters.opening_seconds + 1, partial(settle, world, claim))
        return
    world.do(disputes.OpenLeaf(world.platform.public.data, claim, world.fresh()))
    within = world.rng.randrange(parameters.rebuttal_seconds)
    world.later(within, partial(defend, world, claim))
    world.later(parameters.rebuttal_seconds + 1, partial(judge, world, claim))


def defend(world: World, claim: bytes) -> None:
    """A forgetful host shows its receipt; a cheating one tries what it has."""
    deal, key, _ = world.claimed[claim]
    own = deal.receipts.get(key, [])
    if deal.conduct == "forgetful":
        for receipt, salt in [one for one in own if _rightly(world, claim, one[0])][:1]:
            world.do(disputes.Rebut(deal.id, claim, receipt, key, (salt,)))
    if deal.conduct in INNOCENT or not world.adverse:
        return
    shown = [world.permit(deal, key, adverse=True)] if world.active(deal) else []
    shown += [*own[:1], *next(reversed(deal.receipts.values()), [])[:1]]
    shown += [one[0] for other in world.deals[:1] for one in list(other.receipts.values())[:1]]
    for one in shown:
        if one is not None:
            world.tally.attacks["rebuttal without a permission"] += 1
            shown_now = disputes.Rebut(deal.id, claim, one[0], key, (one[1],))
            if world.do(shown_now, adverse=True) and not _rightly(world, claim, one[0]):
                world.tally.surprises.append("a permission cleared what it was not got for")


def _rightly(world: World, claim: bytes, receipt: Receipt) -> bool:
    """Whether the log itself shows this permission below the commitment, and for the key, and it
    had not expired when the host answered."""
    deal, key, _ = world.claimed[claim]
    made = world.state.claims[claim].made
    _, index = world.state.commitments[made.license, made.number]
    place, own = receipt.header.log_index, deal.receipts.get(key, [])
    late = made.answered is not None and made.answered > receipt.permission.expires
    return place < index and not late and any(one == receipt for one, _ in own)


def judge(world: World, claim: bytes) -> None:
    """Verifiers sign what they found, liars the opposite; then anybody settles."""
    if world.state.claims[claim].settled:
        return
    deal, key, reply = world.claimed[claim]
    holds = world.true(deal, key, reply)
    _vote(world, claim, holds)
    settle(world, claim)
    if world.state.claims[claim].upheld is not holds:
        world.tally.surprises.append("a claim was not settled as the honest verifiers found")


def _vote(world: World, case: bytes, holds: bool) -> None:
    for verifier in world.verifiers:
        lies = verifier in world.liars
        world.do(voting.GiveVerdict(verifier, case, holds is not lies), adverse=lies)


def settle(world: World, claim: bytes) -> None:
    """Close a claim; a conviction goes to its appeal."""
    deal = world.claimed[claim][0]
    for event in world.do(disputes.SettleClaim(world.owners[0], claim)):
        if isinstance(event, e.Convicted):
            if deal.conduct in INNOCENT:
                world.tally.surprises.append(f"convicted: a host that is {deal.conduct}")
            _appeal(world, deal)


def _appeal(world: World, deal: Deal) -> None:
    """Half of the convicted appeal."""
    guilty = deal.conduct not in INNOCENT
    if not guilty or world.rng.random() < 0.5:
        world.do(convictions.Appeal(deal.id, deal.license), adverse=guilty)
        _vote(world, deal.license, guilty)
        world.do(convictions.SettleConviction(world.owners[0], deal.license))
        return
    wait = world.scenario.parameters.appeal_seconds + 1
    close = convictions.SettleConviction(world.owners[0], deal.license)
    world.later(wait, partial(world.do, close))


def retire(world: World, deal: Deal) -> None:
    """A host ends its license, and asks for its stake when nothing is open any more."""
    deal.over = True
    if not world.state.licenses[deal.license].ended:
        world.do(licenses.EndLicense(deal.id, deal.license))
    world.later(world.scenario.parameters.floor_seconds, partial(_unbond, world, deal))


def _unbond(world: World, deal: Deal) -> None:
    one = world.state.licenses[deal.license]
    if one.open_claims or (one.conviction is not None and not one.settled):
        world.later(DAY, partial(_unbond, world, deal))
    elif not one.settled:
        world.do(stake.Unbond(deal.id, deal.purpose, STAKE))
        world.later(world.scenario.parameters.unbond_seconds + 1, partial(_release, world, deal))


def _release(world: World, deal: Deal) -> None:
    """Take the stake, unless a claim has come between or holds it."""
    one = world.state.licenses[deal.license]
    opened = [world.state.claims[claim].opened for claim in one.upheld]
    unbond = world.scenario.parameters.unbond_seconds
    held = max((leaf.verdict_until + unbond for leaf in opened if leaf), default=0)
    judged = one.conviction is None or one.settled
    if one.open_claims or not judged or (world.now <= held and not one.settled):
        world.later(DAY, partial(_release, world, deal))
    elif world.state.staked(deal.purpose, deal.id):
        world.do(stake.Release(deal.id, deal.purpose))
