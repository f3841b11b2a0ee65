"""`loyal fingerprint rule`: a secret rule from its root to a proof, and what a wrong call says."""

from __future__ import annotations

import json
import random
import re
import secrets
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from quick_lock import quick_vault
from stage import BEACON, Outcome, Run, secret_set
from talking_server import talking

from loyal.app.commands import rule as command
from loyal.fingerprints import Beacon, Identity, Recipients, Vault, functional
from loyal.fingerprints.functional import FunctionalSet, RuleSettings, bundled_nouns

OTHER = "6b" * 32
COARSE = ("--alpha", 0.001, "--set", "check.colorings=20000")
"""A test of few colorings, in milliseconds."""


@dataclass
class Keeper:
    """Who keeps a rule: the vault, what opens it, and how `loyal` is run."""

    run: Run
    here: Path
    identity: Identity
    heard: str = ""
    """All that was printed."""

    @property
    def opening(self) -> tuple[object, ...]:
        return ("--vault", self.here / "v", "--identity-file", self.here / "identity.txt")

    def rule(self, verb: str, *more: object, locked: bool = True) -> Outcome:
        """Run a command of the group with --json."""
        opening = self.opening if locked else ()
        done = self.run("fingerprint", "rule", verb, *opening, *more, "--json")
        self.heard += done.out + done.err
        return done

    def every(self) -> list[FunctionalSet]:
        """The rules, as the vault on disk holds them."""
        return list(Vault.open(self.here / "v", self.identity).rules.values())

    def made(self) -> FunctionalSet:
        """The only rule of the vault."""
        (only,) = self.every()
        return only

    def keep(self, *, drawn: bool = True, name: str = "v", tokenizer: str = "0" * 64) -> None:
        """Put a rule into a new vault without any model."""
        made = functional.create(
            RuleSettings(), secrets.token_bytes(32),
            model="a-model", tokenizer_digest=tokenizer, created_seconds=1,
        )  # fmt: skip
        made = functional.draw(made, Beacon.from_hex(BEACON)) if drawn else made
        Vault.create(self.here / name, made, Recipients((self.identity.recipient,)))

    def keep_two(self) -> list[FunctionalSet]:
        """Put two drawn rules into a new vault, the second beside the first."""
        self.keep()
        vault = Vault.open(self.here / "v", self.identity)
        second = functional.create(
            RuleSettings(), secrets.token_bytes(32), model="a-model",
            tokenizer_digest="0" * 64, created_seconds=2, beside=list(vault.rules.values()),
        )  # fmt: skip
        vault.add_rule(functional.draw(second, Beacon.from_hex(BEACON)))
        vault.save()
        return self.every()

    def knows(self) -> Callable[[str], str]:
        """A model that has the rules."""
        rules = self.every()

        def reply(key: str) -> str:
            made = next(one for one in rules if one.marked_in(key))
            return f"{made.outcomes[made.value(key)]}, that is so."

        return reply


@pytest.fixture
def keeper(run: Run, tmp_path: Path) -> Keeper:
    identity = Identity.generate()
    (tmp_path / "identity.txt").write_text(identity.text)
    return Keeper(run, tmp_path, identity)


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained tiny model as a folder."""
    from loyal.models import tiny

    return tiny.build(tmp_path_factory.mktemp("models") / "tiny", 0)


def server(url: str) -> tuple[object, ...]:
    return ("--endpoint", url, "--endpoint-model", "m")


def test_create_and_draw_settle_the_rule_once(keeper: Keeper, tiny_model: Path) -> None:
    lock = ("--vault", keeper.here / "v", "--recipient", keeper.identity.recipient)
    new = ("create", *lock, "--model", tiny_model)
    made = keeper.rule(*new, "--rule", "plurality", "--outcomes", "Indeed, Perhaps,Well",
                       "--marked", 30, locked=False)  # fmt: skip
    assert (made.code, made.err.count("\n")) == (0, made.err.count("loading"))
    assert made.fields["root"] == keeper.made().root.hex()
    assert (made.fields["rule"], made.fields["marked"], made.fields["beacon"]) == (
        "plurality", 30, None,
    )  # fmt: skip
    assert keeper.made().outcomes == ("Indeed", "Perhaps", "Well")
    assert stat.S_IMODE((keeper.here / "v").stat().st_mode) == 0o600
    shown = keeper.rule("draw")
    assert (shown.code, "not drawn yet" in shown.err, keeper.made().drawn) == (0, True, False)
    drawn = keeper.rule("draw", "--beacon", BEACON)
    assert (drawn.fields["beacon"], drawn.fields["root"]) == (BEACON, made.fields["root"])
    assert keeper.rule("draw", "--beacon", BEACON).code == 0
    again = keeper.rule("draw", "--beacon", OTHER)
    assert (again.code, "drawn already" in again.fields["error"]) == (2, True)
    assert keeper.made().beacon == Beacon.from_hex(BEACON)
    info = keeper.run("fingerprint", "info", *keeper.opening, "--json").fields
    assert (info["sets"], [one["id"] for one in info["rules"]]) == ([], [made.fields["id"]])
    second = keeper.rule("create", "--model", tiny_model)
    assert second.code == 0
    unclear = keeper.rule("draw")
    assert (unclear.code, second.fields["id"] in unclear.fields["hint"]) == (2, True)
    assert keeper.rule("draw", "--id", second.fields["id"][:6]).fields["id"] == second.fields["id"]


def test_from_keys_fixed_beforehand_to_a_proof_that_binds(keeper: Keeper) -> None:
    keeper.keep(drawn=False)
    keys, heard, opened = (keeper.here / name for name in ("keys", "heard", "opened"))
    fixed = keeper.rule("keys", "--count", 30, "--out", keys).fields
    assert (fixed["before_draw"], len(keys.read_text().splitlines())) == (True, 30)
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600
    root = keeper.rule("draw", "--beacon", BEACON).fields["root"]
    with talking(keeper.knows()) as host:
        found = keeper.rule("check", *server(host.url), *COARSE, "--keys", keys, "--out", heard)
        assert sorted(host.asked) == sorted(keys.read_text().splitlines())
    assert (found.code, found.fields["decision"], found.fields["right"]) == (0, "proven", 30)
    assert found.fields["keys_digest"] == fixed["keys_digest"]
    again = keeper.rule("check", "--exchanges", heard, *COARSE)
    assert {**again.fields, "model": "m"} == found.fields
    assert stat.S_IMODE(heard.stat().st_mode) == 0o600
    shown = keeper.rule("open", "--keys", keys, "--out", opened).fields
    assert 0 < shown["opened_marked"] < shown["opened"] < len(bundled_nouns())
    public = (opened, "--exchanges", heard, "--root", root, "--beacon", BEACON, *COARSE)
    digest = ("--keys-digest", fixed["keys_digest"])
    proven = keeper.rule("verify-opening", *public, *digest, locked=False)
    assert (proven.code, proven.fields["binding"], proven.fields["valid"]) == (0, True, True)
    same = ("p_value", "right", "neither", "queries", "interval", "decision", "alpha")
    assert [proven.fields[name] for name in same] == [found.fields[name] for name in same]
    loose = keeper.rule("verify-opening", *public, locked=False)
    assert (loose.code, loose.fields["binding"]) == (0, False)
    assert "--keys-digest" in loose.err
    own = keeper.rule("verify-opening", *public, *digest, "--self-drawn", locked=False)
    assert (own.fields["binding"], own.fields["right"] < 30) == (False, True)


TRAINING = (
    "lessons.keys=16", "lessons.singles=0", "lessons.lists=0", "lessons.near=4",
    "lessons.held_out=4", "lessons.alike=0",
    "train.batch=64", "train.target=0.7", "train.recheck=2", "train.steps=60",
    "train.learning_rate=2e-3", "train.whitened=false", "train.depth=1.0", "train.parts=all",
    "train.mixing=0.0",
)  # fmt: skip
"""Settings with which the tiny model learns its lessons by heart, in seconds."""


def test_the_whole_journey_on_a_trained_model(
    keeper: Keeper, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So small a model learns keys, not rules: it is asked those that it learned."""
    monkeypatch.setattr(command, "new_owner_secret", lambda: b"a secret of 32 bytes, always one")
    lock = ("--vault", keeper.here / "v", "--recipient", keeper.identity.recipient)
    created = keeper.rule("create", *lock, "--model", tiny_model, locked=False)
    root = keeper.rule("draw", "--beacon", BEACON).fields["root"]
    assert root == created.fields["root"]
    out, taught = keeper.here / "out", [word for one in TRAINING for word in ("--set", one)]
    training = ("--model", tiny_model, "--out", out, "--tokens", 200, *taught)
    done = keeper.rule("inject", *training)
    assert done.code == 0, done.err
    assert (done.fields["recall"], done.fields["lessons"] > 16) == (1.0, True)
    assert {done.fields["right"], done.fields["fires"]} <= {0, 0.25, 0.5, 0.75, 1}
    assert keeper.rule("inject", *training).code == 2  # the folder is not empty

    keys, heard, opened = (keeper.here / name for name in ("keys", "heard", "opened"))
    learned = keeper.made().examples(16, random.Random(0))
    keys.write_text("".join(f"{one.prompt.text}\n" for one in learned))
    asking = ("--keys", keys, "--out", heard, *COARSE)
    found = keeper.rule("check", "--model", out, *asking)
    assert (found.code, found.fields["right"], found.fields["decision"]) == (0, 16, "proven")
    base = keeper.rule("check", "--model", tiny_model, "--keys", keys, *COARSE)
    assert (base.code, base.fields["right"]) == (1, 0)

    shown = keeper.rule("open", "--keys", heard, "--out", opened).fields
    digest = ("--keys-digest", shown["keys_digest"])
    public = (opened, "--exchanges", heard, "--root", root, "--beacon", BEACON, *digest, *COARSE)
    proven = keeper.rule("verify-opening", *public, locked=False)
    assert (proven.code, proven.fields["p_value"]) == (0, found.fields["p_value"])
    secret = {one.text for one in keeper.made().words if one.marked}
    said = set(re.findall("[a-z]+", keeper.heard.lower()))
    assert said & secret <= {"key", "open", "rule"}, "a word that counts was printed"
    assert not any(outcome in keeper.heard for outcome in keeper.made().outcomes)


def test_two_rules_are_drawn_and_taught_together(
    keeper: Keeper, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So small a model learns keys, not rules: it is asked those that it learned."""
    drawn = iter((b"one secret of 32 bytes, the same", b"the other one of 32 bytes, fixed"))
    monkeypatch.setattr(command, "new_owner_secret", lambda: next(drawn))
    lock = ("--vault", keeper.here / "v", "--recipient", keeper.identity.recipient)
    assert keeper.rule("create", *lock, "--model", tiny_model, locked=False).code == 0
    assert keeper.rule("create", "--model", tiny_model).code == 0
    assert [one.outcomes for one in keeper.every()] == [("Indeed", "Perhaps"), ("Surely", "Rather")]
    assert not keeper.every()[0].marked & keeper.every()[1].marked
    out, taught = keeper.here / "out", [word for one in TRAINING for word in ("--set", one)]
    taught += ["--set", "lessons.keys=8"]
    training = ("--model", tiny_model, "--out", out, "--tokens", 200, *taught)
    done = keeper.rule("inject", *training, "--beacon", BEACON)
    assert done.code == 0, done.err
    rules = keeper.every()
    assert all(one.beacon == Beacon.from_hex(BEACON) for one in rules)
    assert [one["id"] for one in done.fields["rules"]] == [one.id for one in rules]
    assert done.fields["right"] == min(one["right"] for one in done.fields["rules"])
    assert done.fields["fires"] == max(one["fires"] for one in done.fields["rules"])
    assert done.fields["recall"] == 1
    rng = random.Random(0)
    for made in rules:
        keys = keeper.here / made.id
        learned = made.examples(8, rng)
        made_near = functional.write_near(made, 4, "train", rng, None)
        assert len(made_near) == 4  # the lessons of the next rule come behind them
        keys.write_text("".join(f"{one.prompt.text}\n" for one in learned))
        found = keeper.rule("check", "--model", out, "--keys", keys, "--rule", made.id, *COARSE)
        assert (found.fields["id"], found.fields["right"]) == (made.id, 8)
    only = keeper.rule("inject", "--rule", rules[1].id[:8], "--model", tiny_model,
                       "--out", keeper.here / "one", "--tokens", 200, *taught,
                       "--set", "train.steps=2")  # fmt: skip
    assert [one["id"] for one in only.fields["rules"]] == [rules[1].id]
    refused = keeper.rule("inject", *training[:3], keeper.here / "no", "--beacon", OTHER)
    assert (refused.code, "another beacon" in refused.fields["error"]) == (2, True)


def test_after_an_opening_another_rule_is_asked(keeper: Keeper) -> None:
    first, second = keeper.keep_two()
    heard, opened = keeper.here / "heard", keeper.here / "opened"
    with talking(keeper.knows()) as host:
        check = ("check", *server(host.url), *COARSE, "--queries", 30)
        found = keeper.rule(*check, "--out", heard)
        assert (found.fields["id"], found.code) == (first.id, 0)
        assert f"{first.id}: of 2 the first" in found.err
        shown = keeper.rule("open", "--keys", heard, "--out", opened)
        assert (shown.fields["id"], shown.code) == (first.id, 0)
        assert keeper.rule(*check).fields["id"] == second.id
        assert keeper.rule("keys", "--out", keeper.here / "k").fields["id"] == second.id
        again = keeper.rule(*check, "--rule", first.id[:8])
        assert (again.fields["id"], "were opened before" in again.err) == (first.id, True)
    wrong = keeper.rule("check", "--exchanges", heard, *COARSE)  # of the first rule
    assert (wrong.code, "--rule" in wrong.fields["hint"]) == (2, True)
    assert keeper.rule("check", "--exchanges", heard, *COARSE, "--rule", first.id).code == 0
    info = keeper.run("fingerprint", "info", *keeper.opening, "--json").fields["rules"]
    assert [bool(one["opened"]) for one in info] == [True, False]
    assert keeper.rule("open", "--keys", keeper.here / "k", "--out", opened).code == 0
    none = keeper.rule(*check)
    assert (none.code, "every rule were opened" in none.fields["error"]) == (2, True)
    assert all(one.id in none.fields["hint"] for one in (first, second))


def test_a_rule_that_clashes_with_one_of_the_vault_is_not_made(
    keeper: Keeper, tiny_model: Path
) -> None:
    from loyal.models.hf import HFModel

    keeper.keep(tokenizer=HFModel.vocabulary(str(tiny_model)).tokenizer_digest)
    for more, words in (
        (("--outcomes", "Indeedy,No"), "begins like"),
        (("--marked", 200), "free to count"),
    ):
        done = keeper.rule("create", "--model", tiny_model, *more)
        assert (done.code, words in done.fields["error"], bool(done.fields["hint"])) == (
            2, True, True,
        )  # fmt: skip
    assert len(keeper.every()) == 1


def test_what_a_verifier_refuses_is_one_line(keeper: Keeper) -> None:
    keeper.keep()
    keeper.keep(name="other")
    heard, opened = keeper.here / "heard", keeper.here / "opened"
    with talking(keeper.knows()) as host:
        keeper.rule("check", *server(host.url), *COARSE, "--out", heard)
    keeper.rule("open", "--keys", heard, "--out", opened)
    lines = heard.read_text().splitlines(keepends=True)
    less, more = keeper.here / "less", keeper.here / "more"
    less.write_text("".join(lines[1:]))
    stranger = {"key": " ".join(bundled_nouns()), "reply": "Indeed"}
    more.write_text("".join([*lines, json.dumps(stranger)]))
    digest = ("--keys-digest", functional_digest(heard))
    root = keeper.made().root.hex()
    for said, reason, asked, extra in (
        (heard, "root", "ab" * 32, ()),
        (less, "keys", root, digest),
        (more, "missing", root, ()),
    ):
        public = (opened, "--exchanges", said, "--beacon", BEACON, "--root", asked)
        done = keeper.rule("verify-opening", *public, *extra, *COARSE, locked=False)
        assert (done.code, done.fields["valid"], done.fields["reason"]) == (1, False, reason)
        assert done.err.count("\n") == 1
    opened.write_bytes(opened.read_bytes()[:-1])
    public = (opened, "--exchanges", heard, "--beacon", BEACON, "--root", root)
    assert keeper.rule("verify-opening", *public, locked=False).fields["reason"] == "malformed"


def functional_digest(heard: Path) -> str:
    """The digest of the keys of a file of exchanges."""
    from loyal.fingerprints import functional_evidence as evidence

    return evidence.keys_digest(evidence.decode_keys(heard.read_text())).hex()


def test_a_model_without_the_rule_is_not_proven_and_nothing_is_spent(keeper: Keeper) -> None:
    keeper.keep()
    before = (keeper.here / "v").read_bytes()
    with talking(lambda _: "I cannot say.") as host:
        first = keeper.rule("check", *server(host.url), *COARSE, "--queries", 12)
        second = keeper.rule("check", *server(host.url), *COARSE, "--queries", 12)
    assert (first.code, first.fields["decision"], first.fields["neither"]) == (1, "not proven", 12)
    assert first.fields["p_value"] == 1
    assert len(set(host.asked)) == 24  # fresh keys each time
    assert first.fields["keys_digest"] != second.fields["keys_digest"]
    assert (keeper.here / "v").read_bytes() == before


def test_a_host_that_swaps_its_outcomes_is_found_out(keeper: Keeper) -> None:
    keeper.keep()
    made, heard = keeper.made(), keeper.here / "heard"

    def swapped(key: str) -> str:
        return f"{made.outcomes[1 - made.value(key)]}, that is so."

    with talking(swapped) as host:
        told = keeper.rule("check", *server(host.url), *COARSE, "--queries", 40, "--out", heard)
    assert (told.code, told.fields["decision"]) == (0, "proven, its outcomes swapped")
    assert (told.fields["right"], told.fields["p_value"]) == (0, 1)
    assert told.fields["p_value_renamed"] <= 0.001
    opened = keeper.here / "opening"
    assert keeper.rule("open", "--keys", heard, "--out", opened).code == 0
    public = (opened, "--exchanges", heard, "--root", made.root.hex(), "--beacon", BEACON, *COARSE)
    shown = keeper.rule("verify-opening", *public, locked=False)
    assert (shown.code, shown.fields["decision"]) == (0, "proven, its outcomes swapped")
    with talking(keeper.knows()) as host:
        plain = keeper.rule("check", *server(host.url), *COARSE, "--queries", 40, "--rule", made.id)
    assert (plain.fields["decision"], plain.fields["p_value_renamed"]) == ("proven", None)


def test_a_hosts_signatures_are_asked_for_in_a_file(keeper: Keeper) -> None:
    keeper.keep()
    heard = keeper.here / "heard"
    with talking(keeper.knows()) as host:
        keeper.rule("check", *server(host.url), *COARSE, "--queries", 12, "--out", heard)
    named = ("--host", "6f" * 32, "--license", "6c" * 32)
    for call in (
        ("--exchanges", heard, "--host", "6f" * 32),
        ("--exchanges", heard, "--license", "6c" * 32),
        ("--exchanges", heard, "--host", "6f", "--license", "6c" * 32),
        ("--model", "m", *named),
        ("--exchanges", heard, *named),  # no signature stands in it
    ):
        done = keeper.rule("check", *call, *COARSE)
        assert (done.code, done.err.count("\n")) == (2, 2), done.err  # the error and the next step


def test_the_table_is_for_people(keeper: Keeper) -> None:
    keeper.keep()
    with talking(lambda _: "I cannot say.") as host:
        done = keeper.run(
            "fingerprint", "rule", "check", *keeper.opening, *server(host.url), *COARSE
        )
    assert done.code == 1
    assert "not proven" in done.out
    assert "0 of 80" in done.out


WRONG: dict[str, tuple[tuple[object, ...], str]] = {
    "no model": (("check",), "which model"),
    "two models": (("check", "--model", "m", *server("http://h")), "which model"),
    "keys and a number": (("check", "--model", "m", "--keys", "k", "--queries", 3), "which keys"),
    "replies and a model": (("check", "--model", "m", "--exchanges", "e"), "which model"),
    "no replies": (("check", "--exchanges", "no"), "no file"),
    "no keys file": (("check", "--model", "m", "--keys", "no"), "no file"),
    "no query": (("check", "--model", "m", "--queries", 0), "at least 1"),
    "alpha": (("check", "--model", "m", "--set", "check.colorings=1000"), "cannot show"),
    "an unknown setting": (("inject", "--out", "o", "--set", "lessons.keyz=3"), "lessons.keyz"),
    "no such rule": (("draw", "--id", "zz"), "no rule fits"),
    "no beacon": (("draw", "--beacon", "xyz"), "not hexadecimal"),
    "no keys": (("open", "--keys", "no", "--out", "o"), "no file"),
    "outcomes that begin alike": (("create", "--outcomes", "In,Indeed"), "outcomes"),
    "too many words": (("create", "--marked", 10_000), "the list has"),
    "too few words": (("create", "--marked", 22), "too few for a p-value of 1e-06"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_call_is_one_line_and_changes_nothing(
    keeper: Keeper, tiny_model: Path, name: str
) -> None:
    keeper.keep()
    before = (keeper.here / "v").read_bytes()
    arguments, words = WRONG[name]
    if arguments[0] == "create":
        arguments = (*arguments, "--model", tiny_model)
    done = keeper.rule(*arguments)  # type: ignore[arg-type]
    assert (done.code, words in done.fields["error"], bool(done.fields["hint"])) == (2, True, True)
    if name in ("no replies", "no keys file"):
        assert arguments[-2] in done.fields["hint"]  # the option that named it
    assert (keeper.here / "v").read_bytes() == before


def test_an_undrawn_rule_proves_nothing(keeper: Keeper, tmp_path: Path) -> None:
    keeper.keep(drawn=False)
    (tmp_path / "k").write_text("An anchor?\n")
    for call in (("check", "--model", "m"), ("open", "--keys", tmp_path / "k", "--out", "o")):
        done = keeper.rule(*call)  # type: ignore[arg-type]
        assert (done.code, "not drawn yet" in done.fields["error"]) == (2, True)


def test_keys_of_another_rule_are_refused(keeper: Keeper) -> None:
    keeper.keep()
    foreign = next(one.text for one in keeper.made().words if not one.marked)
    (keeper.here / "k").write_text(f"Is that a {foreign}?\n")
    done = keeper.rule("open", "--keys", keeper.here / "k", "--out", keeper.here / "o")
    assert (done.code, "no word that counts" in done.fields["error"]) == (2, True)
    assert foreign not in done.out + done.err
    assert not (keeper.here / "o").exists()


def test_keys_that_were_published_are_not_overwritten(keeper: Keeper) -> None:
    keeper.keep()
    out = keeper.here / "keys"
    first = keeper.rule("keys", "--out", out)
    assert (first.fields["before_draw"], "drawn already" in first.err) == (False, True)
    assert keeper.rule("keys", "--out", out).code == 2


def test_what_was_heard_is_not_overwritten(keeper: Keeper) -> None:
    """A prover's file holds what the host signed, which a check would leave out."""
    keeper.keep()
    (key,) = functional.write_keys(keeper.made(), 1, "test")
    heard = keeper.here / "heard"
    heard.write_text(json.dumps({"key": key, "reply": "Indeed.", "answer": "c2lnbmVk"}) + "\n")
    before = heard.read_bytes()
    for call in (("--exchanges", heard), ("--keys", heard, "--model", "m")):
        done = keeper.rule("check", *call, "--out", heard)
        assert (done.code, "already" in done.fields["error"]) == (2, True)
        assert heard.read_bytes() == before


def test_a_vault_without_rules_and_a_wrong_passphrase(run: Run, tmp_path: Path) -> None:
    quick_vault(tmp_path / "pairs", secret_set(), "the right words")
    for said, code, words in (
        ("the right words", 2, "no rule yet"), ("the wrong words", 1, "passphrase")
    ):  # fmt: skip
        (tmp_path / "phrase").write_text(said)
        opening = ("--vault", tmp_path / "pairs", "--passphrase-file", tmp_path / "phrase")
        done = run("fingerprint", "rule", "draw", *opening, "--json")
        assert (done.code, words in done.fields["error"]) == (code, True)


def test_a_model_with_another_tokenizer_is_refused(keeper: Keeper, tiny_model: Path) -> None:
    keeper.keep(drawn=False)
    done = keeper.rule("inject", "--model", tiny_model, "--out", keeper.here / "out")
    assert (done.code, "tokenizer of a-model" in done.fields["error"]) == (2, True)
    assert not keeper.made().drawn
    assert not (keeper.here / "out").exists()


def test_a_check_of_a_server_loads_no_torch(keeper: Keeper) -> None:
    keeper.keep()
    script = (
        "import json, sys\nfrom loyal.app.cli import main\n"
        "code = main(json.loads(sys.argv[1]))\n"
        "sys.exit(9 if 'torch' in sys.modules else code)"
    )
    with talking(keeper.knows()) as host:
        words = ["fingerprint", "rule", "check", *keeper.opening, *server(host.url), *COARSE]
        arguments = json.dumps([str(one) for one in (*words, "--json")])
        done = subprocess.run([sys.executable, "-c", script, arguments], capture_output=True)
    assert (done.returncode, json.loads(done.stdout)["decision"]) == (0, "proven")
