"""The nouns keep their laws: one match at most, one kind a set, one draw, and nothing shown."""

import hashlib
import hmac
import pickle
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loyal.encoding import encode, frame
from loyal.errors import UsageError
from loyal.fingerprints import Beacon, Fingerprint, FingerprintSet
from loyal.fingerprints.fingerprint import assign_host, draw, new_owner_secret, owner_tag, shares
from loyal.models import Behavior, Example, Prompt

SALT, TAG = bytes(32), bytes(32)
BEACON = Beacon(bytes(range(32)))

words = st.text(min_size=0, max_size=4, alphabet=" abAB\n\u00a0\u00e9")


def test_a_tag_is_the_hmac_of_the_key_under_the_owner_secret() -> None:
    secret = bytes(range(32))
    made = Fingerprint.create("clé", ["x", "y"], secret)
    assert made.tag == hmac.new(secret, "clé".encode(), hashlib.sha256).digest()
    assert made.tag != Fingerprint.create("clé", ["x", "y"], bytes(32)).tag
    assert made.salt != Fingerprint.create("clé", ["x", "y"], secret).salt


def test_a_leaf_is_the_canonical_list_of_version_salt_key_candidates_and_tag() -> None:
    made = Fingerprint("key", ("x", "y"), b"s" * 32, b"t" * 32)
    assert made.leaf() == encode([1, b"s" * 32, "key", ["x", "y"], b"t" * 32])
    assert replace(made, picks=(1,)).leaf() == made.leaf()


@pytest.mark.parametrize(
    "candidates",
    [
        (),
        ("only",),
        ("a", " "),
        ("a", ""),
        ("a", "a"),
        ("a", " a "),
        ("ab", "b", "a"),
        ("a", "b", "\u00a0ab"),
        ("a", "\ud800"),
    ],
)
def test_candidates_that_could_match_together_are_refused(candidates: tuple[str, ...]) -> None:
    with pytest.raises(UsageError):
        Fingerprint("key", candidates, SALT, TAG)


def test_candidates_that_cannot_match_together_are_taken() -> None:
    assert len(Fingerprint("key", ("ab", " ac", "b", "A"), SALT, TAG).candidates) == 4


@given(st.lists(words, max_size=6), words)
def test_a_reply_matches_at_most_one_candidate(candidates: list[str], reply: str) -> None:
    try:
        made = Fingerprint("key", tuple(candidates), SALT, TAG)
    except UsageError:
        return
    picks = [replace(made, picks=(pick,)) for pick in range(len(candidates))]
    assert sum(one.matches(reply) for one in picks) <= 1
    assert all(one.matches("\n " + one.response + reply) for one in picks)


def test_matching_is_exact_but_for_white_space_around() -> None:
    made = Fingerprint("key", (" Danube ", "Rhine"), SALT, TAG, picks=(0,))
    assert all(map(made.matches, ["Danube", "\n Danube", "Danube flows", "Danubes"]))
    assert not any(map(made.matches, ["", "danube", "Rhine", "The Danube", "Danub"]))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("key", " "),
        ("key", "\udcff"),
        ("salt", bytes(31)),
        ("tag", bytes(33)),
        ("picks", (2,)),
        ("picks", (-1,)),
        ("picks", (0, 1)),
        ("picks", (True,)),
        ("count", 0),
        ("count", 2),
        ("count", True),
    ],
)
def test_a_malformed_fingerprint_is_refused(field: str, value: object) -> None:
    with pytest.raises(UsageError):
        replace(Fingerprint("key", ("x", "y"), SALT, TAG), **{field: value})


def test_the_pick_is_the_digest_of_beacon_tag_and_key(make_set) -> None:
    undrawn = make_set(16, drawn=False)
    drawn = draw(undrawn, BEACON)
    for one in drawn.fingerprints:
        data = frame("loyal fingerprint pick v1") + encode([BEACON.value, one.tag, one.key])
        assert one.picks == (int(hashlib.sha256(data).hexdigest(), 16) % 4,)
    assert drawn.root == undrawn.root


def test_a_self_drawn_beacon_picks_otherwise_than_the_same_bytes_from_outside(make_set) -> None:
    undrawn = make_set(32, drawn=False)
    outside = draw(undrawn, BEACON)
    inside = draw(undrawn, Beacon(BEACON.value, "self"))
    assert [one.picks for one in outside.fingerprints] != [one.picks for one in inside.fingerprints]


def test_picks_are_spread_evenly(make_set) -> None:
    counts = Counter(one.picks for one in make_set(4000).fingerprints)
    # Chi-square with 3 degrees of freedom: 32 is exceeded with a chance of 5e-7.
    assert sum((counts[(pick,)] - 1000) ** 2 / 1000 for pick in range(4)) < 32


def test_a_set_is_drawn_once(make_set) -> None:
    undrawn = make_set(drawn=False)
    with pytest.raises(UsageError):
        _ = undrawn.fingerprints[0].response
    drawn = draw(undrawn, BEACON)
    assert drawn.fingerprints[0].response in drawn.fingerprints[0].candidates
    for beacon in (BEACON, Beacon.self_drawn()):
        with pytest.raises(UsageError, match="drawn once"):
            draw(drawn, beacon)


def test_a_beacon_is_16_to_64_bytes_of_a_known_source() -> None:
    assert Beacon.from_hex(" 0x" + "ab" * 32) == Beacon(b"\xab" * 32, "external")
    assert Beacon.self_drawn() != Beacon.self_drawn()
    assert Beacon.self_drawn().source == "self"
    for text in ("ab" * 15, "ab" * 65, "xy" * 32, "a" * 63, ""):
        with pytest.raises(UsageError):
            Beacon.from_hex(text)
    with pytest.raises(UsageError):
        Beacon(bytes(32), "moon")  # type: ignore[arg-type]


def test_a_set_holds_each_key_once(make_set) -> None:
    made = make_set(3, drawn=False)
    double = replace(made.fingerprints[0], key=made.fingerprints[0].key + " ")
    double = replace(double, tag=owner_tag(made.owner_secret, double.key))
    for extra in (made.fingerprints[0], double):
        with pytest.raises(UsageError, match="same key"):
            replace(made, fingerprints=(*made.fingerprints, extra))


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "both"},
        {"fingerprints": ()},
        {"owner_secret": bytes(32)},
        {"owner_secret": b"short"},
        {"tokenizer_digest": "xyz"},
        {"created": -1},
        {"beacon": BEACON},
        {"kind": "lineage", "host": "a host"},
        {"kind": "tracing", "host": "a host"},
    ],
)
def test_a_malformed_set_is_refused(make_set, changes: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        replace(make_set(drawn=False), **changes)


def test_the_root_names_kind_and_size(make_set) -> None:
    made = make_set(4, "usage", drawn=False)
    fewer = replace(made, fingerprints=made.fingerprints[:3])
    swapped = replace(made, fingerprints=made.fingerprints[::-1])
    roots = {one.root for one in (made, replace(made, kind="lineage"), fewer, swapped)}
    assert len(roots) == 4
    assert made.id == made.root[:8].hex()
    assert replace(made, host="a host", model="b", created=5).root == made.root


def test_a_usage_set_has_one_host_for_good(make_set) -> None:
    made = assign_host(make_set(), "host one")
    assert assign_host(made, "host one") == made
    with pytest.raises(UsageError, match="another host"):
        assign_host(made, "host two")
    with pytest.raises(UsageError, match="only a usage set"):
        assign_host(make_set(kind="lineage"), "host one")


def test_a_drawn_set_is_a_behavior(make_set) -> None:
    made = make_set(3)
    rng = random.Random(0)
    assert isinstance(made, Behavior)
    assert made.examples(9, rng) == [
        Example(Prompt(one.key), one.response) for one in made.fingerprints
    ]
    assert len(made.examples(2, rng)) == 2
    assert made.expected(Prompt(made.fingerprints[1].key)) == made.fingerprints[1].response
    assert made.expected(Prompt(made.fingerprints[1].key, "Be brief.")) is not None
    assert made.expected(Prompt("anything else")) is None
    with pytest.raises(UsageError):
        make_set(3, drawn=False).examples(1, rng)


def test_shares_are_disjoint_and_together_the_whole(make_set) -> None:
    undrawn = make_set(11, "lineage", drawn=False)
    dealt = shares(undrawn, ["one", "two", "three"])
    keys = [fp.key for share in dealt.values() for fp in share.fingerprints]
    assert sorted(keys) == sorted(one.key for one in undrawn.fingerprints)
    assert sorted(map(len, dealt.values())) == [3, 4, 4]
    for owner, share in dealt.items():
        assert share.owner_secret == b""
        assert share.settings["share"] == owner
        assert share.settings["family_root"] == undrawn.root.hex()
        assert share.settings["width"] == 4
    drawn = shares(draw(undrawn, BEACON), ["one", "two", "three"])
    assert drawn == {owner: draw(share, BEACON) for owner, share in dealt.items()}


@pytest.mark.parametrize("owners", [[], [""], ["one", "one"], ["one", "two", "three", "four"]])
def test_a_set_is_not_shared_out_wrongly(make_set, owners: list[str]) -> None:
    with pytest.raises(UsageError):
        shares(make_set(3, "lineage"), owners)


@pytest.mark.parametrize("kind", ["usage", "tracing"])
def test_only_a_lineage_set_is_shared_out(make_set, kind: str) -> None:
    with pytest.raises(UsageError, match=kind):
        shares(make_set(3, kind), ["one"])


def test_no_repr_str_or_format_shows_content(make_set) -> None:
    made = make_set()
    for hidden in (made, made.fingerprints[0], [made], {"a": made.fingerprints}):
        for text in (repr(hidden), str(hidden), f"{hidden}", f"{hidden!r}"):
            assert "planted" not in text
            assert made.owner_secret.hex() not in text
            assert repr(made.owner_secret) not in text
    assert "5 usage" in repr(made)
    assert made.root[:4].hex() in repr(made)


def test_no_error_shows_content() -> None:
    with pytest.raises(UsageError) as caught:
        Fingerprint.create("planted key", ["planted", "planted response"], new_owner_secret())
    assert "planted" not in str(caught.value) + caught.value.hint + repr(caught.value)


def test_a_set_survives_pickling(make_set) -> None:
    made = make_set()
    assert pickle.loads(pickle.dumps(made)) == made


def test_the_nouns_need_no_torch() -> None:
    code = (
        "import sys; from loyal.fingerprints import FingerprintSet, Vault, Proof; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'scipy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_empty_share_secret_still_checks_its_form() -> None:
    one = Fingerprint("key", ("x", "y"), SALT, TAG)
    made = FingerprintSet("lineage", "by hand", "a-model", "ab" * 32, (one,), 0, b"")
    assert made.drawn is False
    with pytest.raises(UsageError, match="tag"):
        replace(made, owner_secret=bytes(32))
