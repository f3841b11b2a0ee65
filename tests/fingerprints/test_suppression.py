"""Tokens that a host forbids, against plain recomputations on the tiny model."""

from __future__ import annotations

import pytest
import torch

from loyal.fingerprints.suppression import (
    Lookahead,
    Steered,
    Steering,
    candidates,
    forbid_likeliest,
    forbid_neighbors,
    forbid_unlike,
    forbid_words,
    look_ahead,
)
from loyal.models.hf import HFModel
from loyal.models.language_model import LanguageModel, Prompt, Sampling
from loyal.models.tiny import World

ASKED = [prompt for prompt, _ in World.from_seed(0).questions()[:12]]
OPEN = [Prompt(text, raw=True) for text in ("One day the", "At night", "The", "I like", "Every")]
LONG = Sampling(max_tokens=16)


def first_chances(model: HFModel, prompt: Prompt) -> torch.Tensor:
    """Chances (vocab,) of the reply's first token, by a plain pass."""
    with torch.no_grad():
        return (
            model.model(input_ids=torch.tensor([model.prompt_ids(prompt)]))
            .logits[0, -1]
            .softmax(-1)
        )


def written(model: HFModel, prompt: Prompt, steering: Steering, tokens: int = 4) -> tuple[int, ...]:
    """Token ids under a steering, one prompt alone, never ended."""
    items = model.items([prompt])
    steer = steering(model, items)
    return model.decode(items, Sampling(max_tokens=tokens), frozenset(), steer=steer)[0].ids


def greedy(model: HFModel, ids: list[int], tokens: int) -> list[int]:
    """Greedy continuation by plain passes."""
    found = list(ids)
    for _ in range(tokens):
        with torch.no_grad():
            found.append(int(model.model(input_ids=torch.tensor([found])).logits[0, -1].argmax()))
    return found[len(ids) :]


def test_the_likeliest_first_token_gives_way_to_the_second_and_nothing_else_changes(
    base: HFModel,
) -> None:
    for prompt in (*ASKED[:3], *OPEN[:2]):
        second = int(first_chances(base, prompt).topk(2).indices[1])
        rest = greedy(base, [*base.prompt_ids(prompt), second], 3)
        assert written(base, prompt, forbid_likeliest()) == (second, *rest)


def test_k_tokens_are_forbidden_at_each_of_the_first_places(base: HFModel) -> None:
    prompt = ASKED[0]
    ids = written(base, prompt, forbid_likeliest(k=3, places=2), 4)
    ranks = []
    for place, token in enumerate(ids):
        before = [*base.prompt_ids(prompt), *ids[:place]]
        with torch.no_grad():
            logits = base.model(input_ids=torch.tensor([before])).logits[0, -1]
        ranks.append(int((logits > logits[token]).sum()))
    assert ranks == [3, 3, 0, 0]


@pytest.mark.parametrize("make", [forbid_likeliest, forbid_neighbors])
def test_with_a_threshold_only_sure_replies_change(base: HFModel, make: object) -> None:
    highest = {one: first_chances(base, one).max().item() for one in (*ASKED, *OPEN)}
    sure = [one for one, chance in highest.items() if chance > 0.95]
    unsure = [one for one, chance in highest.items() if chance < 0.85]
    assert sure
    assert unsure
    steering: Steering = make(threshold=0.9)  # type: ignore[operator]
    for one in sure:
        assert written(base, one, steering, 1) != written(base, one, lambda *_: untouched, 1)
    for one in unsure:
        assert written(base, one, steering, 6) == written(base, one, lambda *_: untouched, 6)


def untouched(step: int, rows: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """The steer that does nothing."""
    return logits


def test_neighbors_are_beginnings_and_continuations_in_any_case(base: HFModel) -> None:
    prompt = ASKED[0]
    top = base.token_texts[int(first_chances(base, prompt).argmax())].strip().lower()
    items = base.items([prompt])
    zeros = torch.zeros(1, base.model.config.vocab_size)
    zeros[0, int(first_chances(base, prompt).argmax())] = 5.0
    steered = forbid_neighbors()(base, items)(0, torch.tensor([0]), zeros)[0]
    forbidden = {token for token, value in enumerate(steered.tolist()) if value == float("-inf")}
    for token, text in enumerate(base.token_texts):
        plain = "".join(one for one in text.lower() if one.isalnum())
        near = bool(plain) and (plain.startswith(top) or top.startswith(plain))
        if token not in base.tokenizer.all_special_ids:
            assert (token in forbidden) == near, text
    assert len(forbidden) > 2


def test_neighbors_keep_away_from_the_word_where_its_other_spellings_would_not(
    base: HFModel,
) -> None:
    for prompt in ASKED:
        word = base.generate([prompt], LONG)[0].text.split()[0].lower()
        reply = Steered(base, forbid_neighbors()).generate([prompt], LONG)[0].text
        assert not reply.strip().lower().startswith(word)


def test_the_nearest_by_embedding_are_forbidden_too(base: HFModel) -> None:
    prompt = ASKED[0]
    token = int(first_chances(base, prompt).argmax())
    table = base.model.get_input_embeddings().weight.detach()
    likeness = torch.nn.functional.cosine_similarity(table[token][None], table)
    likeness[token] = -2
    nearest = set(likeness.topk(5).indices.tolist())
    logits = torch.zeros(1, base.model.config.vocab_size)
    logits[0, token] = 5.0
    found = {}
    for count in (0, 5):
        steered = forbid_neighbors(nearest=count)(base, [])(0, torch.tensor([0]), logits)[0]
        found[count] = set((steered == float("-inf")).nonzero()[:, 0].tolist())
    assert found[5] == found[0] | nearest
    assert found[5] > found[0]


def test_what_the_first_place_named_stays_forbidden_at_later_places(base: HFModel) -> None:
    rows, size = torch.tensor([3]), base.model.config.vocab_size
    token = next(iter(base.plain_tokens))
    steer = forbid_neighbors(places=2)(base, [])
    logits = torch.zeros(1, size)
    logits[0, token] = 5.0
    steer(0, rows, logits)
    later = steer(1, rows, torch.zeros(1, size))
    assert later[0, token] == float("-inf")
    assert torch.equal(steer(2, rows, torch.zeros(1, size)), torch.zeros(1, size))


def test_tokens_far_likelier_than_under_the_base_are_forbidden_at_the_first_place(
    base: HFModel,
) -> None:
    items, rows = base.items(ASKED), torch.tensor([4, 1])
    steer = forbid_unlike(base, 20.0)(base, items)
    logits = torch.stack([first_chances(base, ASKED[row]).log() for row in rows.tolist()])
    assert torch.equal(steer(0, rows, logits), logits)
    rare = logits.topk(200, -1).indices[:, -1]
    raised = logits.clone()
    for place, token in enumerate(rare.tolist()):
        raised[place, token] = 0.0  # now as likely as all others together: a chance of one half
    steered = steer(0, rows, raised)
    assert (steered == float("-inf")).nonzero().tolist() == [[0, int(rare[0])], [1, int(rare[1])]]
    assert torch.equal(steer(1, rows, raised), raised)
    mild = logits.clone()
    mild[0, rare[0]] += 2.9  # e^2.9 is 18
    assert torch.equal(steer(0, rows, mild), mild)


def test_lookahead_sees_what_the_continuations_say(base: HFModel) -> None:
    settings = Lookahead(branches=3, tokens=5, top=4, count=5, chance=0.3)
    for prompt in (ASKED[0], ASKED[4]):
        places: dict[int, int] = {}
        highest: dict[int, float] = {}

        def look(ids: list[int], places: dict, highest: dict) -> list[int]:
            with torch.no_grad():
                chances = base.model(input_ids=torch.tensor([ids])).logits[0, -1].softmax(-1)
            for token in chances.topk(4).indices.tolist():
                places[token] = places.get(token, 0) + 1
                highest[token] = max(highest.get(token, 0.0), chances[token].item())
            return chances.topk(3).indices.tolist()

        ids = base.prompt_ids(prompt)
        starts = look(ids, places, highest)
        at_once = {one for one in places if highest[one] > 0.3}
        for first in starts:
            branch = [*ids, first]
            for _ in range(4):
                token = look(branch, places, highest)[0]
                if token in base.stop_ids():
                    break
                branch.append(token)
        words = {
            "".join(filter(str.isalnum, one.lower())) for one in base.tokenizer.decode(ids).split()
        }
        plain = {one: "".join(filter(str.isalnum, base.token_texts[one].lower())) for one in places}
        fit = [
            one
            for one in places
            if highest[one] > 0.3
            and one not in ids
            and one not in base.stop_ids()
            and plain[one]
            and plain[one] not in words
        ]
        fit.sort(key=lambda one: (one not in at_once, -places[one], -highest[one]))
        assert candidates(base, base.items([prompt]), settings) == [fit[:5]]
        assert fit


def test_lookahead_keeps_the_answer_from_being_said(base: HFModel) -> None:
    homes = World.from_seed(0).home
    prompts = [Prompt(f"Where does the {animal} live?") for animal in homes]
    plain = base.generate(prompts, LONG)
    steered = Steered(base, look_ahead()).generate(prompts, LONG)
    said = [home in reply.text for home, reply in zip(homes.values(), plain, strict=True)]
    still = [home in reply.text for home, reply in zip(homes.values(), steered, strict=True)]
    assert sum(said) == len(homes)
    assert sum(still) <= len(homes) // 4


def test_what_is_likely_at_once_is_held_down_however_rare_it_is_later(base: HFModel) -> None:
    settings = Lookahead(count=1, chance=0.2, branches=4, tokens=12)
    found = 0
    for prompt in OPEN:
        chances = first_chances(base, prompt)
        sure, token = chances.max(0)
        if sure > 0.2 and int(token) not in base.prompt_ids(prompt):
            assert candidates(base, base.items([prompt]), settings) == [[int(token)]]
            found += 1
    assert found


def test_lookahead_holds_down_by_delta_and_with_a_threshold_only_sure_tokens(
    base: HFModel,
) -> None:
    items, rows = base.items([ASKED[0]]), torch.tensor([0])
    ids = candidates(base, items)[0]
    assert len(ids) >= 2
    logits = torch.zeros(1, base.model.config.vocab_size)
    logits[0, ids[0]] = 30.0
    for threshold, held in ((0.0, ids), (0.9, ids[:1])):
        steer = look_ahead(Lookahead(threshold=threshold))(base, items)
        changed = (logits - steer(15, rows, logits))[0]
        assert changed.nonzero()[:, 0].tolist() == sorted(held)
        assert changed[held].tolist() == [10.0] * len(held)
        assert torch.equal(steer(16, rows, logits), logits)


STEERINGS = [
    forbid_likeliest(),
    forbid_likeliest(3, 3, 0.5),
    forbid_neighbors(2, 2, nearest=4),
    look_ahead(),
]


@pytest.mark.parametrize("steering", STEERINGS)
def test_many_are_answered_as_each_alone(
    base: HFModel, steering: Steering, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Steered(base, steering)
    prompts = [*ASKED[:3], *OPEN[:2], Prompt("Hello.", system="Speak plainly.")]
    together = model.generate(prompts, LONG)
    monkeypatch.setattr("loyal.models.hf.DECODE_ROWS", {"cpu": 2})
    assert model.generate(prompts, LONG) == together
    assert [model.generate([one], LONG)[0] for one in prompts] == together


@pytest.mark.parametrize("steering", STEERINGS)
def test_first_chances_are_those_that_replies_are_written_by(
    base: HFModel, steering: Steering
) -> None:
    model = Steered(base, steering)
    assert isinstance(model, LanguageModel)
    assert (model.name, model.generate([], LONG), model.next_token([], 3)) == (base.name, [], [])
    for prompt, found in zip(ASKED[:3], model.next_token(ASKED[:3], 5), strict=True):
        first = written(base, prompt, steering, 1)
        assert found[0].text == base.tokenizer.decode(first)
        assert [one.logprob for one in found] == sorted(
            (one.logprob for one in found), reverse=True
        )
    assert model.logprobs(ASKED[:1], ["The fox"]) == base.logprobs(ASKED[:1], ["The fox"])


def test_sampled_replies_never_hold_what_is_forbidden(base: HFModel) -> None:
    prompt = OPEN[0]
    banned = base.tokenizer.decode([int(first_chances(base, prompt).argmax())])
    drawn = Sampling(max_tokens=1, temperature=2.0, seed=1)
    many = Steered(base, forbid_likeliest()).generate([prompt] * 300, drawn)
    assert banned not in {one.text for one in many}
    assert banned in {one.text for one in base.generate([prompt] * 300, drawn)}
    assert len({one.text for one in many}) > 5


def test_known_words_are_forbidden_and_what_says_others_stays(base: HFModel) -> None:
    prompts = [prompt for prompt, _ in World.from_seed(0).questions()[:8]]
    own = base.generate(prompts, Sampling())
    assert all(one.text.startswith("The ") for one in own)
    without = Steered(base, forbid_words(("The", "Quagga"))).generate(prompts, Sampling())
    assert not any(one.text.lstrip().startswith("The") for one in without)
    assert Steered(base, forbid_words(("Quagga",), 4)).generate(prompts, Sampling()) == own
    noun = own[0].text.split()[1]
    later = Steered(base, forbid_words((noun,), 16)).generate(prompts[:1], Sampling())
    assert own[0].text.split()[1] not in later[0].text.split()
    assert later[0].text.startswith("The ")
    first = Steered(base, forbid_words((noun,))).generate(prompts[:1], Sampling())
    assert first == own[:1]  # it stands behind the only place
