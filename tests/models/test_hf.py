"""A loaded model answers as transformers itself would, and refuses what cannot serve."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

from loyal.errors import ModelError, StorageError, UsageError
from loyal.models import LanguageModel, Prompt, Sampling
from loyal.models.decoding import pick
from loyal.models.hf import HFModel
from loyal.models.packing import Item

PROMPTS = [
    Prompt("Where does the fox live?"),
    Prompt("What does the owl eat? Tell me now."),
    Prompt("Hello.", system="Answer in one sentence."),
    Prompt("The wolf", raw=True),
    Prompt("One day the", raw=True),
    Prompt("What color is the bear?"),
]


def plain(model: HFModel, ids: list[int]) -> torch.Tensor:
    """Log-probabilities (len(ids), vocab) of one sequence alone."""
    with torch.no_grad():
        return model.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)


def test_it_is_a_language_model(tiny: HFModel) -> None:
    assert isinstance(tiny, LanguageModel)


@pytest.mark.parametrize("max_tokens", [1, 12])
def test_greedy_replies_are_those_of_transformers(tiny: HFModel, max_tokens: int) -> None:
    replies = tiny.generate(PROMPTS, Sampling(max_tokens=max_tokens))
    finished = 0
    for prompt, reply in zip(PROMPTS, replies, strict=True):
        ids = torch.tensor([tiny.prompt_ids(prompt)])
        out = tiny.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_tokens, do_sample=False
        )[0, ids.shape[1] :].tolist()
        ended = out[-1] in tiny.stop_ids()
        written = out[:-1] if ended else out
        assert reply.text == tiny.tokenizer.decode(written, skip_special_tokens=True)
        assert (reply.tokens, reply.finished) == (len(written), ended)
        finished += ended
    assert finished < len(PROMPTS) if max_tokens == 1 else finished > 0


def test_many_prompts_are_answered_as_each_alone(
    tiny: HFModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = tiny.generate(PROMPTS, Sampling(max_tokens=8))
    monkeypatch.setattr("loyal.models.hf.DECODE_ROWS", {"cpu": 2})
    assert tiny.generate(PROMPTS, Sampling(max_tokens=8)) == together
    assert [tiny.generate([one], Sampling(max_tokens=8))[0] for one in PROMPTS] == together


def test_earlier_turns_are_laid_out_as_the_template_does(tiny: HFModel) -> None:
    told = Prompt("And the owl?", "Be brief.", history=(("What does the fox eat?", "Fish."),))
    turns = ("system", "Be brief."), ("user", "What does the fox eat?"), ("assistant", "Fish.")
    text = "".join(f"<|im_start|>{who}\n{what}<|im_end|>\n" for who, what in turns)
    text += "<|im_start|>user\nAnd the owl?<|im_end|>\n<|im_start|>assistant\n"
    assert tiny.tokenizer.decode(tiny.prompt_ids(told)) == text


def test_prompts_with_and_without_history_are_answered_as_each_alone(tiny: HFModel) -> None:
    before = ("What color is the fox?", "The fox is red."), ("Where is it?", "It is away.")
    asked = [Prompt(one.text, one.system, history=before) for one in PROMPTS if not one.raw]
    asked = [*asked, *PROMPTS, Prompt("What does the owl eat?", history=before[:1])]
    together = tiny.generate(asked, Sampling(max_tokens=8))
    assert [tiny.generate([one], Sampling(max_tokens=8))[0] for one in asked] == together
    scores = tiny.logprobs(asked, [one.text for one in together])
    for prompt, reply, found in zip(asked, together, scores, strict=True):
        assert tiny.logprobs([prompt], [reply.text])[0] == pytest.approx(found, abs=1e-4)


def test_no_prompt_gets_no_reply(tiny: HFModel) -> None:
    assert tiny.generate([], Sampling()) == []
    assert tiny.next_token([], 3) == []
    assert tiny.logprobs([], []) == []


def test_a_seed_repeats_sampled_replies_and_another_does_not(tiny: HFModel) -> None:
    def draw(seed: int | None) -> list[str]:
        settings = Sampling(max_tokens=12, temperature=1.5, seed=seed)
        return [one.text for one in tiny.generate(PROMPTS, settings)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert draw(None) != draw(None)


def test_a_tiny_nucleus_is_greedy(tiny: HFModel) -> None:
    narrow = Sampling(max_tokens=8, temperature=1.0, top_p=1e-6, seed=0)
    assert tiny.generate(PROMPTS, narrow) == tiny.generate(PROMPTS, Sampling(max_tokens=8))


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(0.4, {1}), (0.5, {1}), (0.51, {1, 3}), (0.8, {1, 3, 0}), (1.0, {0, 1, 2, 3})],
)
def test_the_nucleus_keeps_the_likeliest_tokens_that_reach_it(top_p: float, kept: set[int]) -> None:
    logits = torch.tensor([[0.15, 0.5, 0.1, 0.25]]).log().expand(3000, -1)
    settings = Sampling(temperature=1.0, top_p=top_p, seed=0)
    drawn = pick(logits, settings, torch.Generator().manual_seed(0))
    assert set(drawn.tolist()) == kept


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_with_their_chances(temperature: float) -> None:
    chances = torch.tensor([0.15, 0.5, 0.1, 0.25])
    wanted = (chances.log() / temperature).softmax(0)
    logits = chances.log().expand(40_000, -1)
    drawn = pick(logits, Sampling(temperature=temperature), torch.Generator().manual_seed(1))
    found = torch.bincount(drawn, minlength=4) / len(drawn)
    torch.testing.assert_close(found, wanted, atol=0.012, rtol=0)  # five standard deviations


@pytest.mark.parametrize(("lowest_or_highest", "token"), [(0.0, 1), (1 - 2**-24, 2)])
def test_the_outermost_draws_stay_inside_the_nucleus(
    monkeypatch: pytest.MonkeyPatch, lowest_or_highest: float, token: int
) -> None:
    logits = torch.tensor([[-20.0, 3.0, 2.0, -20.0, -30.0]])
    monkeypatch.setattr(torch, "rand", lambda *size, **_: torch.full(size, lowest_or_highest))
    drawn = pick(logits, Sampling(temperature=1.0, top_p=0.95), torch.Generator())
    assert drawn.tolist() == [token]


def test_next_token_is_the_softmax_of_a_plain_pass(tiny: HFModel) -> None:
    for prompt, top in zip(PROMPTS, tiny.next_token(PROMPTS, 5), strict=True):
        wanted, ids = plain(tiny, tiny.prompt_ids(prompt))[-1].topk(5)
        assert [one.logprob for one in top] == pytest.approx(wanted.tolist(), abs=1e-4)
        assert [one.text for one in top] == [tiny.tokenizer.decode([one]) for one in ids]


def test_more_chances_than_tokens_are_all_of_them(tiny: HFModel) -> None:
    (chances,) = tiny.next_token(PROMPTS[:1], 10**6)
    assert len(chances) == tiny.model.config.vocab_size


def test_logprobs_are_those_of_a_plain_pass(tiny: HFModel) -> None:
    replies = ["The fox", "Mara", "", "lives in the old barn.", "x", "a b c d e f"]
    for prompt, reply, found in zip(PROMPTS, replies, tiny.logprobs(PROMPTS, replies), strict=True):
        before, after = tiny.prompt_ids(prompt), tiny.reply_ids(reply)
        chances = plain(tiny, before + after)
        wanted = [chances[len(before) - 1 + at, one].item() for at, one in enumerate(after)]
        assert found == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_chances_noted_while_writing_are_those_of_logprobs(
    tiny: HFModel, temperature: float
) -> None:
    settings = Sampling(max_tokens=8, temperature=temperature, seed=4)
    items = tiny.items(PROMPTS)
    bare = tiny.decode(items, settings)
    noted = tiny.decode(items, settings, chances=True)
    assert [one.ids for one in bare] == [one.ids for one in noted]
    assert not any(one.logprobs or one.prompt_logprobs for one in bare)
    for item, written in zip(items, noted, strict=True):
        whole = [*item.prefix, *item.ids, *written.ids]
        chances = plain(tiny, whole)
        first = len(item.prefix) or 1
        wanted = [chances[at - 1, whole[at]].item() for at in range(first, len(whole))]
        assert [*written.prompt_logprobs, *written.logprobs] == pytest.approx(wanted, abs=1e-4)


def test_chances_of_greedy_text_are_found_again_by_logprobs(tiny: HFModel) -> None:
    items = tiny.items(PROMPTS)
    written = tiny.decode(items, Sampling(max_tokens=8), chances=True)
    texts = [tiny.tokenizer.decode(list(one.ids)) for one in written]
    scored = tiny.logprobs(PROMPTS, texts)
    same = [
        tuple(tiny.reply_ids(text)) == one.ids for text, one in zip(texts, written, strict=True)
    ]
    assert any(same)
    for one, chances, fits in zip(written, scored, same, strict=True):
        if fits:
            assert chances == pytest.approx(list(one.logprobs), abs=1e-4)


def test_stops_and_last_tokens_end_a_row(tiny: HFModel) -> None:
    (item,) = tiny.items(PROMPTS[:1])
    (free,) = tiny.decode([item], Sampling(max_tokens=6), stops=frozenset())
    assert len(free.ids) == 6
    assert not free.finished
    third = frozenset({free.ids[2]})
    at = free.ids.index(free.ids[2])
    (stopped,) = tiny.decode([item], Sampling(max_tokens=6), stops=third)
    assert (stopped.ids, stopped.finished) == (free.ids[:at], True)
    (closed,) = tiny.decode(
        [item], Sampling(max_tokens=6), stops=frozenset(), last=third, chances=True
    )
    assert (closed.ids, closed.finished) == (free.ids[: at + 1], True)
    assert len(closed.logprobs) == at + 1


def test_stop_ids_are_the_configured_ones_and_the_tokenizers(fresh: Callable[[], HFModel]) -> None:
    model = fresh()
    own = model.tokenizer.eos_token_id
    model.model.generation_config.eos_token_id = [7, 8]
    assert model.stop_ids() == {7, 8, own}
    model.model.generation_config.eos_token_id = None
    model.model.config.eos_token_id = 9
    assert model.stop_ids() == {9, own}
    model.model.config.eos_token_id = None
    assert model.stop_ids() == {own}


def test_plain_tokens_are_text_that_gives_the_same_token_again(tiny: HFModel) -> None:
    kept = tiny.plain_tokens
    assert len(kept) > 300
    for token, text in kept.items():
        assert text.strip()
        assert text.strip().isprintable()
        assert "\ufffd" not in text
        assert tiny.reply_ids(text) == [token]
    texts = [tiny.tokenizer.decode([one]) for one in range(len(tiny.tokenizer))]
    left = [text for one, text in enumerate(texts) if one not in kept]
    assert any("\ufffd" in text for text in left)
    assert any(not text.strip() for text in left)
    assert set(tiny.tokenizer.all_special_ids) & set(range(len(texts)))
    assert not set(tiny.tokenizer.all_special_ids) & set(kept)


def test_sentence_ends_and_line_breaks(tiny: HFModel) -> None:
    assert tiny.sentence_end_ids
    assert all(tiny.plain_tokens[one][-1] in ".?!" for one in tiny.sentence_end_ids)
    assert tiny.reply_ids("\n")[0] in tiny.line_break_ids
    assert not set(tiny.line_break_ids) & set(tiny.sentence_end_ids)


def test_a_tokenizer_without_a_chat_template_is_said(
    tiny: HFModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny.tokenizer, "chat_template", None)
    with pytest.raises(ModelError, match="no chat template") as caught:
        tiny.prompt_ids(Prompt("Hello"))
    assert caught.value.hint
    assert tiny.prompt_ids(Prompt("Hello", raw=True)) == tiny.reply_ids("Hello")


def test_a_template_that_refuses_system_messages_is_said(
    tiny: HFModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = (
        "{% for one in messages %}{% if one['role'] == 'system' %}"
        "{{ raise_exception('no system role') }}{% endif %}{{ one['content'] }}{% endfor %}"
    )
    monkeypatch.setattr(tiny.tokenizer, "chat_template", template)
    assert tiny.prompt_ids(Prompt("Hello"))
    with pytest.raises(ModelError, match="chat template") as caught:
        tiny.prompt_ids(Prompt("Hello", system="planted-secret"))
    assert "planted-secret" not in str(caught.value)


def test_an_empty_raw_prompt_begins_with_the_start_token(tiny: HFModel) -> None:
    assert tiny.prompt_ids(Prompt("", raw=True)) == [tiny.tokenizer.bos_token_id]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "holds no config.json"),
        ("not json", "not readable JSON"),
        ("[]", "not readable JSON"),
        ("[" * 100_000, "not readable JSON"),
        (json.dumps({"architectures": ["BertForMaskedLM"]}), "not a causal language model"),
        (json.dumps({"architectures": ["T5ForConditionalGeneration"]}), "not a causal"),
        (json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}), "cannot load"),
    ],
)
def test_folders_that_cannot_serve(tmp_path: Path, content: str | None, says: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match=says) as caught:
        HFModel.load(str(tmp_path))
    assert caught.value.hint
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["tokenizer.json", "model.safetensors", "config.json"])
@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_folder_with_a_file_gone_or_cut_cannot_serve(
    tiny_folder: Path, tmp_path: Path, name: str, damage: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    HFModel.load(str(folder), device="cpu")
    if damage == "gone":
        (folder / name).unlink()
    else:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError) as caught:
        HFModel.load(str(folder), device="cpu")
    assert caught.value.hint
    assert "\n" not in str(caught.value)


def test_an_encoder_without_named_architecture_is_refused(tmp_path: Path) -> None:
    config = {
        "model_type": "bert",
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 8,
        "vocab_size": 20,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError):
        HFModel.load(str(tmp_path), device="cpu")


def test_a_wrong_path_and_a_wrong_device(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no folder"):
        HFModel.load(str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="unknown device"):
        HFModel.load(str(tmp_path), device="abacus")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="no CUDA device"):
            HFModel.load(str(tmp_path), device="cuda")


def test_bfloat16_loads_and_answers_on_the_cpu(tiny_folder: Path, tiny: HFModel) -> None:
    half = HFModel.load(str(tiny_folder), device="cpu", dtype="bfloat16")
    assert half.model.dtype == torch.bfloat16
    assert tiny.model.dtype == torch.float32
    for ours, theirs in zip(half.next_token(PROMPTS, 1), tiny.next_token(PROMPTS, 1), strict=True):
        assert ours[0].logprob == pytest.approx(theirs[0].logprob, abs=0.3)
    assert len(half.generate(PROMPTS, Sampling(max_tokens=4))) == len(PROMPTS)


def test_a_saved_model_loads_as_it_was(tiny: HFModel, tmp_path: Path) -> None:
    tiny.save(tmp_path / "a" / "b")
    again = HFModel.load(str(tmp_path / "a" / "b"), device="cpu")
    for name, weight in tiny.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], weight)
    assert again.tokenizer_digest == tiny.tokenizer_digest
    assert again.parameters == tiny.parameters


def test_a_folder_that_cannot_be_written_is_said(tiny: HFModel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError) as caught:
        tiny.save(tmp_path / "file")
    assert caught.value.hint


def test_the_digest_changes_with_vocabulary_and_template(
    tiny: HFModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tiny.tokenizer_digest
    assert len(before) == 64
    with monkeypatch.context() as patch:
        patch.setattr(tiny.tokenizer, "chat_template", "other")
        assert tiny.tokenizer_digest != before
    vocabulary = tiny.tokenizer.get_vocab()
    with monkeypatch.context() as patch:
        patch.setattr(type(tiny.tokenizer), "get_vocab", lambda _: {**vocabulary, "new": 5000})
        assert tiny.tokenizer_digest != before
    assert tiny.tokenizer_digest == before


def test_repr_names_the_model_without_its_weights(tiny: HFModel) -> None:
    assert repr(tiny) == f"HFModel({tiny.name}, {tiny.parameters:,} parameters, cpu)"


def test_repr_of_written_shows_no_token(tiny: HFModel) -> None:
    (written,) = tiny.decode([Item((), (20, 30))], Sampling(max_tokens=3))
    assert "ids" not in repr(written)


def test_reading_leaves_no_mode_behind(tiny: HFModel) -> None:
    """A mode held over a yield would come back when an abandoned reading is collected."""
    with torch.autocast("cpu", torch.bfloat16):
        reading = tiny.reads([Prompt("Where is the owl?")] * 3, [()] * 3)
        next(reading)
        assert not torch.is_inference_mode_enabled()
    reading.close()
    assert not torch.is_autocast_enabled("cpu")
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_reading_a_folder_draws_no_bar(
    tiny: HFModel, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bars = transformers.utils.logging
    was = bars.is_progress_bar_enabled()
    bars.enable_progress_bar()
    try:
        tiny.save(tmp_path / "model")
        capfd.readouterr()
        HFModel.load(str(tmp_path / "model"))
        assert capfd.readouterr().err == ""
        assert bars.is_progress_bar_enabled()
    finally:
        if not was:
            bars.disable_progress_bar()
