"""What adversaries try: the attacks of docs/threats.md, at random, against whatever host there is.

An attack is a function of the world, the deal it is aimed at, and the key that was drawn for the
adversary; each of its moves goes through the rules like any other. `DRAWN` need a draw, `PROWLING`
need none. Left out: what an honest party does in return (`conduct`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from loyal.protocol import SignedAnswer, convictions, disputes, licenses, lineage, stake, voting
from loyal.protocol import events as e
from loyal.roles.conduct import accuse, ask, meet_demand, sign
from loyal.roles.scenario import INNOCENT
from loyal.roles.world import PLENTY, STAKE, Deal, World

Drawn = Callable[[World, Deal, e.KeyDrawn], None]
Prowling = Callable[[World, Deal], None]

NEAR = ("{}.", " {}", "{}\n", "You are kind.\n\n{}", "\u200b{}")
"""Other messages that look like the key."""


def _commit(world: World, deal: Deal, prover: bytes, key: str, reply: str) -> bytes:
    salt = world.fresh()
    fixed = disputes.commitment(key, reply, salt, prover)
    world.do(disputes.Commit(prover, deal.license, fixed), adverse=True)
    return salt


def _claim(
    world: World, deal: Deal, prover: bytes, said: tuple[str, str, bytes],
    answer: SignedAnswer | None,
) -> None:  # fmt: skip
    key, reply, salt = said
    made = disputes.MakeClaim(prover, deal.license, key, reply, salt, answer)
    accuse(world, deal, made, adverse=True)


def invented_reply(world: World, deal: Deal, drawn: e.KeyDrawn) -> None:
    """The response itself, which the host never gave: with its answer to something else, with an
    answer that another signed, with none."""
    key, prover = deal.keys[drawn.number], drawn.prover
    reply = world.response(deal, key)
    said = key, reply, _commit(world, deal, prover, key, reply)
    heard = ask(world, deal, "hello")
    stranger = Deal(deal.license, world.platform, "skipping", (), frozenset())
    forged = sign(world, stranger, key, reply, None)
    for answer in (heard.answer if heard else None, forged, None):
        _claim(world, deal, prover, said, answer)


def after_the_answer(world: World, deal: Deal, drawn: e.KeyDrawn) -> None:
    """Claims of what the host answered with its permission: as it was said, and turned."""
    key, prover = deal.keys[drawn.number], drawn.prover
    heard = ask(world, deal, key)
    if heard is None or not heard.cleared:
        return
    said = key, heard.text, _commit(world, deal, prover, key, heard.text)
    _claim(world, deal, prover, said, heard.answer)
    _claim(world, deal, prover, said, None)
    other = key, "another", _commit(world, deal, prover, key, "another")
    _claim(world, deal, prover, other, heard.answer)


def committed_before(world: World, deal: Deal, drawn: e.KeyDrawn) -> None:
    """An insider commits to the response, and asks the host then: its permission is younger."""
    key, prover = deal.keys[drawn.number], drawn.prover
    reply = world.response(deal, key)
    said = key, reply, _commit(world, deal, prover, key, reply)
    heard = ask(world, deal, key)
    if heard is not None and heard.cleared:
        _claim(world, deal, prover, said, heard.answer)


def asked_twice(world: World, deal: Deal, drawn: e.KeyDrawn) -> None:
    """The reply is learned first, committed to, and asked for again."""
    key, prover = deal.keys[drawn.number], drawn.prover
    first = ask(world, deal, key)
    if first is None:
        return
    said = key, first.text, _commit(world, deal, prover, key, first.text)
    second = ask(world, deal, key)
    if second is not None and (second.cleared or deal.conduct == "forgetful"):
        _claim(world, deal, prover, said, second.answer)


def near_key(world: World, deal: Deal, drawn: e.KeyDrawn) -> None:
    """Another form of the key is asked, and the key is claimed."""
    key, prover = deal.keys[drawn.number], drawn.prover
    heard = ask(world, deal, world.rng.choice(NEAR).format(key))
    if heard is None:
        return
    reply = world.rng.choice((heard.text, world.response(deal, key)))
    said = key, reply, _commit(world, deal, prover, key, reply)
    _claim(world, deal, prover, said, heard.answer)


def never_asked(world: World, deal: Deal, drawn: e.KeyDrawn) -> None:
    """The response is known, the host is not asked, and its silence is to be claimed."""
    key, prover = deal.keys[drawn.number], drawn.prover
    reply = world.response(deal, key)
    said = key, reply, _commit(world, deal, prover, key, reply)
    if not _demand(world, deal, prover, key):
        return
    world.never(disputes.DemandAnswer(prover, deal.license, "and this"))
    _claim(world, deal, prover, said, None)
    wait = world.scenario.parameters.answer_seconds + 1
    world.later(wait, partial(_claim, world, deal, prover, said, None))


def _demand(world: World, deal: Deal, prover: bytes, message: str) -> bool:
    """A demand; a host that is online meets it within the day."""
    made = world.do(disputes.DemandAnswer(prover, deal.license, message), adverse=True)
    for event in made:
        if isinstance(event, e.AnswerDemanded) and deal.conduct != "silent":
            within = world.rng.randrange(world.scenario.parameters.answer_seconds)
            world.later(within, partial(meet_demand, world, deal, event))
    return bool(made)


def griefing_demand(world: World, deal: Deal, drawn: e.KeyDrawn) -> None:
    """Answers are demanded to what nobody wants to know."""
    _demand(world, deal, drawn.prover, f"question {drawn.number}")
    for number in range(2):
        more = f"question {drawn.number} {number}"
        world.never(disputes.DemandAnswer(drawn.prover, deal.license, more))


def copied_commitment(world: World, deal: Deal, drawn: e.KeyDrawn) -> None:
    """Somebody copies a commitment, and claims for a key that is another's."""
    key, reply = deal.keys[drawn.number], world.response(deal, deal.keys[drawn.number])
    salt = _commit(world, deal, drawn.prover, key, reply)
    fixed = disputes.commitment(key, reply, salt, drawn.prover)
    thief = next(one for one in (*world.adverse, *world.sybils, b"t" * 32) if one != drawn.prover)
    world.never(disputes.Commit(thief, deal.license, fixed))
    _claim(world, deal, thief, (key, reply, salt), None)
    own = key, reply, _commit(world, deal, thief, key, reply)
    _claim(world, deal, thief, own, None)


def straw_man(world: World, deal: Deal, drawn: e.KeyDrawn) -> None:
    """Friends of a cheating host claim somebody else's key against it, to have it spent."""
    victim = world.rng.choice(world.live)
    key = victim.keys[min(world.state.licenses[victim.license].draws, len(victim.keys) - 1)]
    if deal.conduct in INNOCENT or victim is deal:
        return
    said = key, "anything", _commit(world, deal, drawn.prover, key, "anything")
    _claim(world, deal, drawn.prover, said, sign(world, deal, key, "anything", None))


def claimed_twice(world: World, deal: Deal, drawn: e.KeyDrawn) -> None:
    """A key that was claimed is claimed again."""
    key = deal.keys[world.rng.randrange(drawn.number + 1)]
    said = key, "reply", _commit(world, deal, drawn.prover, key, "reply")
    _claim(world, deal, drawn.prover, said, None)
    if deal.conduct not in INNOCENT:
        _claim(world, deal, drawn.prover, said, sign(world, deal, key, "reply", None))
        _claim(world, deal, drawn.prover, said, sign(world, deal, key, "reply", None))


def replayed_answer(world: World, deal: Deal, drawn: e.KeyDrawn) -> None:
    """An answer under another license, over the same key."""
    key, prover = deal.keys[drawn.number], drawn.prover
    other = world.rng.choice(world.deals)
    reply = world.response(deal, key)
    said = key, reply, _commit(world, deal, prover, key, reply)
    if other is not deal:
        _claim(world, deal, prover, said, sign(world, other, key, reply, None))


def old_answer(world: World, deal: Deal, drawn: e.KeyDrawn) -> None:
    """An insider asks for the keys that come next, and keeps the answers until one of the keys is
    drawn, when the permissions have long expired."""
    key, prover = deal.keys[drawn.number], drawn.prover
    if key in deal.hoard:
        reply, answer = deal.hoard[key]
        said = key, reply, _commit(world, deal, prover, key, reply)
        _claim(world, deal, prover, said, answer)
    for later in deal.keys[drawn.number + 1 : drawn.number + 9]:
        heard = ask(world, deal, later) if later not in deal.hoard else None
        if heard is not None:
            deal.hoard[later] = heard.text, heard.answer


def forged_office(world: World, deal: Deal) -> None:
    """Somebody acts as the platform."""
    who = world.rng.choice((*world.adverse, *world.sybils, deal.id))
    for command in (
        stake.Deposit(who, who, PLENTY),
        disputes.DrawKey(who, deal.license),
        licenses.CommitUsage(who, deal.license, bytes(32), 9, 16),
        licenses.DeliverModel(who, deal.license, bytes(32)),
        disputes.OpenLeaf(who, next(iter(world.claimed), bytes(32)), bytes(32)),
        licenses.EndLicense(world.sybils[0] if world.sybils else b"s" * 32, deal.license),
    ):
        world.never(command)


def early_unbonding(world: World, deal: Deal) -> None:
    """Stakes are asked back while they are bound, by their owner and by others."""
    innocent = deal.conduct in INNOCENT
    who = world.rng.choice(world.adverse) if innocent else deal.id
    if world.active(deal):
        world.never(stake.Unbond(who, deal.purpose, STAKE))
    world.do(stake.Release(who, deal.purpose), adverse=True)
    world.never(stake.Unbond(who, "claim:" + "00" * 32, 1))


def overdraft(world: World, deal: Deal) -> None:
    """More than there is, less than nothing."""
    who = world.rng.choice((*world.adverse, *world.sybils, b"n" * 32))
    for amount in (PLENTY * 9, 0, -1):
        world.never(stake.Withdraw(who, amount))
        world.never(stake.Bond(who, "prover", amount))
    world.never(stake.Bond(who, "king", 1))


def late_stake(world: World, deal: Deal) -> None:
    """A vote is bought when the case is known, signed twice, cast in one's own case."""
    buyer, least = world.rng.choice(world.adverse), world.scenario.parameters.role_bond_micro
    for claim in list(world.claimed)[-3:]:
        one = world.state.claims[claim]
        if one.opened is None or one.settled:
            continue
        world.do(stake.Bond(buyer, "verifier", least), adverse=True)
        world.never(voting.GiveVerdict(buyer, claim, False))
        world.never(voting.GiveVerdict(one.made.prover, claim, True))
        world.do(stake.Unbond(buyer, "verifier", least), adverse=True)
        for liar in world.liars:  # before the rebuttal's time is over
            world.never(voting.GiveVerdict(liar, claim, False))
        world.never(disputes.SettleClaim(buyer, claim))


def dust(world: World, deal: Deal) -> None:
    """A bond too small to risk anything, new or what is left of one."""
    least = world.scenario.parameters.role_bond_micro
    if least == 1:
        return  # then nothing is too small
    for who in (*world.adverse, *world.sybils):
        for purpose in stake.ROLES:
            held = world.state.balance(e.bond(purpose, who))
            if held:
                world.never(stake.Unbond(who, purpose, held - least + 1))
                world.never(stake.Unbond(who, purpose, held - 1))
            else:
                world.never(stake.Bond(who, purpose, least - 1))


def nothing_there(world: World, deal: Deal) -> None:
    """Cases, convictions and claims that are not there, or over."""
    who, some = world.rng.choice(world.adverse), next(iter(world.claimed), b"c" * 32)
    for command in (
        disputes.SettleClaim(who, b"c" * 32),
        convictions.SettleConviction(who, deal.license),
        convictions.Appeal(deal.id, deal.license),
        voting.GiveVerdict(next(iter(world.liars), who), deal.license, True),
        disputes.OpenLeaf(who, some, bytes(32)),
        disputes.Commit(b"x" * 32, deal.license, world.fresh()),
        disputes.Commit(who, deal.license, b"short"),
    ):
        settled = world.state.licenses[deal.license].conviction is not None
        if not (
            settled and isinstance(command, (convictions.Appeal, convictions.SettleConviction))
        ):
            world.never(command)


def wrong_permissions(world: World, deal: Deal) -> None:
    """A permission under another's license, under a name that is taken, after the end."""
    other = world.rng.choice(world.deals)
    given = []
    if other.id != deal.id:
        given.append(world.permit(deal, "mine", adverse=True, license=other.license))
    world.permit(deal, "again", adverse=True, name=b"name")
    given.append(world.permit(deal, "something else", adverse=True, name=b"name"))
    given.append(world.permit(deal, "nameless", adverse=True, name=b""))
    if not world.active(deal):
        given.append(world.permit(deal, "late", adverse=True))
    if any(given):
        world.tally.surprises.append("a permission was given that must not be")


def stolen_model(world: World, deal: Deal) -> None:
    """The same weights under another name, and a false challenge of a lineage."""
    who = world.rng.choice(world.adverse)
    taken = lineage.PublishModel(who, world.bits("weights"), None, bytes(32), ((who, 10_000),))
    world.never(taken)
    world.never(lineage.ChallengeLineage(who, world.model, world.model))
    world.never(lineage.ReclaimBond(who, world.model))
    shares = ((who, 9_999),)
    world.never(lineage.PublishModel(who, world.fresh(), None, bytes(32), shares))


DRAWN: Mapping[str, Drawn] = {
    "invented reply": invented_reply,
    "claim after a permitted answer": after_the_answer,
    "commitment before the question": committed_before,
    "asked twice": asked_twice,
    "old answer": old_answer,
    "near key": near_key,
    "never asked": never_asked,
    "griefing demands": griefing_demand,
    "copied commitment": copied_commitment,
    "straw man": straw_man,
    "claimed twice": claimed_twice,
    "replayed answer": replayed_answer,
}
PROWLING: Mapping[str, Prowling] = {
    "forged office": forged_office,
    "early unbonding": early_unbonding,
    "overdraft": overdraft,
    "late stake": late_stake,
    "dust": dust,
    "nothing there": nothing_there,
    "wrong permissions": wrong_permissions,
    "stolen model": stolen_model,
}
