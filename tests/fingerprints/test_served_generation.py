"""Keys and responses through a server that gives chances as vLLM does: the same as made here.

The server is real HTTP on 127.0.0.1, and its model the tiny one. Left out: vLLM itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from completion_server import Server, running
from scoring_server import scoring

from loyal.app.cli import main
from loyal.errors import EndpointError, ModelError, UsageError
from loyal.fingerprints import Identity, Vault, keys, responses
from loyal.fingerprints.keys import KeySettings
from loyal.fingerprints.responses import ResponseSettings
from loyal.models.endpoint import EndpointModel, Patience
from loyal.models.examples import bundled_lines
from loyal.models.hf import HFModel

SETTINGS = ResponseSettings(precision="float32", chances=400)
KEYS = bundled_lines("prompts")[:30]


@pytest.fixture
def server(base: HFModel) -> Iterator[Server]:
    """The fake, with the tiny model behind it."""
    with running() as fake:
        fake.after = scoring(base)
        yield fake


def client(server: Server) -> EndpointModel:
    return EndpointModel(server.url, "a-model", patience=Patience(attempts=1))


def test_a_server_ranks_as_the_model_here_does(
    base: HFModel, tiny_folder: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responses, "_CHUNK", 7)
    words = HFModel.vocabulary(str(tiny_folder))
    assert words.device.type == "meta"
    done: list[int] = []
    found = responses.generate(words, KEYS, SETTINGS, done.append, client(server))
    assert found == responses.generate(base, KEYS, SETTINGS)
    assert done == [7, 14, 21, 28, 30]
    assert {body["top_logprobs"] for _, body, _ in server.seen} == {400}
    assert {body["temperature"] for _, body, _ in server.seen} == {1.0}


def test_a_vocabulary_is_that_of_the_model(base: HFModel, tiny_folder: Path) -> None:
    words = HFModel.vocabulary(str(tiny_folder))
    assert words.tokenizer_digest == base.tokenizer_digest
    assert words.plain_tokens == base.plain_tokens
    assert words.stop_ids() == base.stop_ids()
    assert all(one.is_meta for one in words.model.parameters())
    with pytest.raises(ModelError, match="no folder"):
        HFModel.vocabulary("./nowhere")


def test_too_few_chances_say_what_to_do(base: HFModel, server: Server) -> None:
    few = ResponseSettings(chances=17)
    with pytest.raises(ModelError, match="17 likeliest tokens") as caught:
        responses.generate(base, KEYS[:3], few, server=client(server))
    assert "--max-logprobs" in caught.value.hint
    server.after = scoring(base, most=20)
    with pytest.raises(EndpointError, match="HTTP 400") as refused:
        responses.generate(base, KEYS[:3], SETTINGS, server=client(server))
    assert "--max-logprobs" in refused.value.hint
    for error in (caught.value, refused.value):
        assert not any(key in f"{error} {error.hint}" for key in KEYS[:3])


def test_longer_responses_are_not_asked_of_a_server(base: HFModel, server: Server) -> None:
    with pytest.raises(UsageError, match="longer responses"):
        responses.generate(base, KEYS, ResponseSettings(tokens=3), server=client(server))
    assert not server.seen


def test_keys_of_a_server_are_scored_by_it(base: HFModel, server: Server) -> None:
    made = keys.generate(client(server), KeySettings(count=12))
    assert len(set(made.texts)) == 12
    assert made.surprise == pytest.approx(keys.surprise(base, made.texts), abs=1e-3)
    ordinary = keys.ordinary_surprise(base)
    assert made.ordinary_surprise == pytest.approx((ordinary[31] + ordinary[32]) / 2, abs=1e-3)


def test_unlikely_keys_of_a_server_are_drawn_again(base: HFModel, server: Server) -> None:
    limit = keys.ordinary_surprise(base)[int(64 * 0.3)]
    made = keys.generate(client(server), KeySettings(count=12, ordinary=0.3))
    assert max(made.surprise) <= limit + 1e-3
    written = [body for _, body, _ in server.seen if "prompt_logprobs" not in body]
    assert len(written) > 14  # one round asks for 14


def test_a_server_that_scores_nothing_still_writes_keys(base: HFModel, server: Server) -> None:
    server.after = scoring(base, scores=False)
    made = keys.generate(client(server), KeySettings(count=5))
    assert len(made.texts) == 5
    assert all(map(math.isnan, (*made.surprise, made.ordinary_surprise)))


def test_a_set_is_made_through_a_server_alone(
    base: HFModel, tiny_folder: Path, server: Server, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(HFModel, "load", None)  # no weight is read
    identity = Identity.generate()
    vault = tmp_path / "v"
    common = ("fingerprint", "generate", "--model", str(tiny_folder), "--count", "9")
    lock = ("--vault", str(vault), "--recipient", identity.recipient, "--endpoint-ranks")
    assert main([*common, *lock]) == 2
    assert "no server" in capsys.readouterr().err
    asked = ("--endpoint", server.url, "--endpoint-model", "a-model", "--concurrency", "3")
    assert main([*common, *lock, *asked]) == 0
    said = capsys.readouterr()
    made = Vault.open(vault, identity).get("usage")
    assert len(made) == 9
    assert made.tokenizer_digest == base.tokenizer_digest
    assert 1 < server.busiest <= 3
    for one in made.fingerprints:
        assert one.key not in said.out + said.err
        assert len(one.candidates) == 16
