"""What is read of requests and replies, and what is refused because it cannot be read for sure."""

from __future__ import annotations

import json
from typing import Any

import pytest
from gateway_stage import chat, chat_reply, events
from hypothesis import given
from hypothesis import strategies as st

from loyal.app.openai_form import (
    CHAT,
    RAW,
    Refused,
    StreamedReply,
    covered_texts,
    last_prompts,
    reply_texts,
)

PLANTED = "xylophone"


def user(content: object) -> bytes:
    """A chat with one user message."""
    return json.dumps({"messages": [{"role": "user", "content": content}]}).encode()


COVERED: tuple[tuple[str, bytes, list[str]], ...] = (
    (CHAT, user("one"), ["one"]),
    (CHAT, user(""), [""]),
    (CHAT, user(" one\r\n\t "), [" one\r\n\t "]),
    (CHAT, user([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), ["a", "b"]),
    (CHAT, json.dumps(chat("a", "b")).encode(), ["a", "b"]),
    (CHAT, b'{"messages":[{"role":"user","content":"\\u00e9\\ud83d\\ude00"}]}', ["é\U0001f600"]),
    (
        CHAT,
        b'{"messages":[{"role":"system","content":null},{"role":"assistant","tool_calls":[{}]},'
        b'{"role":"user","content":"x","name":"n"},{"role":"tool","content":[{"type":"q"}]}],'
        b'"tools":[{"properties":{"a":1,"A":2}}],"big":123456789012345678901234567890}',
        ["x"],
    ),
    (RAW, b'{"prompt":"one"}', ["one"]),
    (RAW, b'{"prompt":["one","two"],"suffix":"s"}', ["one", "two"]),
)


@pytest.mark.parametrize(("path", "body", "texts"), COVERED)
def test_texts_are_covered_exactly_as_received(path: str, body: bytes, texts: list[str]) -> None:
    assert covered_texts(path, body) == texts


REFUSED: tuple[tuple[str, bytes, str], ...] = (
    (CHAT, b"", "invalid_body"),
    (CHAT, b"{", "invalid_body"),
    (CHAT, b"[]", "invalid_body"),
    (CHAT, b"null", "invalid_body"),
    (CHAT, b"\xff{}", "invalid_body"),
    (CHAT, b"\xef\xbb\xbf" + user("x"), "invalid_body"),
    (CHAT, user("x").decode().encode("utf-16"), "invalid_body"),
    (CHAT, b'{"messages":{}}', "invalid_body"),
    (CHAT, b'{"messages":[{"content":"x"}]}', "invalid_body"),
    (CHAT, b'{"messages":[{"role":"user","content":"\\ud800"}]}', "invalid_body"),
    (CHAT, b'{"messages":[{"role":"user","content":"x"}],"a":' + b"[" * 100_000, "invalid_body"),
    (CHAT, user("x") + b"{}", "invalid_body"),
    (CHAT, b'{"messages":[]}', "no_user_message"),
    (CHAT, b'{"messages":[{"role":"system","content":"x"}]}', "no_user_message"),
    (CHAT, user(None), "not_text"),
    (CHAT, b'{"messages":[{"role":"user"}]}', "not_text"),
    (CHAT, user(7), "not_text"),
    (CHAT, user({"text": PLANTED}), "not_text"),
    (CHAT, user([PLANTED]), "not_text"),
    (CHAT, user([{"type": "image_url", "image_url": {"url": PLANTED}}]), "not_text"),
    (CHAT, user([{"type": "input_audio", "text": PLANTED}]), "not_text"),
    (CHAT, user([{"type": "text"}]), "not_text"),
    (RAW, b'{"prompt":[1,2,3]}', "not_text"),
    (RAW, b'{"prompt":[["a"]]}', "not_text"),
    (RAW, b'{"prompt":null}', "not_text"),
    (RAW, b'{"prompt":[]}', "no_user_message"),
    (RAW, b"{}", "not_text"),
    (RAW, b'{"prompt":"a","prompt":"b"}', "ambiguous_body"),
    (RAW, b'{"prompt":"a","Prompt":"b"}', "ambiguous_body"),
    (RAW, b'{"prompt":"a","\\u0070rompt":"b"}', "ambiguous_body"),
    (CHAT, b'{"messages":[{"role":"user","content":"a","content":"b"}]}', "ambiguous_body"),
    (CHAT, b'{"messages":[{"role":"user","role":"user","content":"a"}]}', "ambiguous_body"),
    (CHAT, b'{"messages":[{"role":"user","content":"a"}],"messages":[]}', "ambiguous_body"),
    (
        CHAT,
        '{"messages":[{"role":"user","content":"a"}],"me\u017f\u017fages":[]}'.encode(),
        "ambiguous_body",
    ),
)


@pytest.mark.parametrize(("path", "body", "code"), REFUSED)
def test_what_cannot_be_covered_is_refused(path: str, body: bytes, code: str) -> None:
    with pytest.raises(Refused) as caught:
        covered_texts(path, body)
    assert (caught.value.status, caught.value.code) == (400, code)
    assert PLANTED.encode() not in caught.value.body()


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    for path in (CHAT, RAW):
        try:
            covered_texts(path, body)
        except Refused:
            continue


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(st.lists(TEXTS, min_size=1, max_size=5))
def test_any_text_is_covered_as_json_says_it(texts: list[str]) -> None:
    for ascii_only in (True, False):
        body = json.dumps(chat(*texts), ensure_ascii=ascii_only).encode()
        assert covered_texts(CHAT, body) == texts


REPLIES: tuple[tuple[Any, list[str] | None], ...] = (
    (chat_reply("one"), ["one"]),
    (chat_reply("one", "two"), ["one", "two"]),
    ({"choices": [{"index": 1, "text": "b"}, {"index": 0, "text": "a"}]}, ["a", "b"]),
    ({"choices": [{"message": {"content": None, "tool_calls": []}}]}, [""]),
    ({"choices": []}, None),
    ({"choices": [{"message": {"content": ["x"]}}]}, None),
    ({"error": {}}, None),
    ([], None),
)


@pytest.mark.parametrize(("answer", "texts"), REPLIES)
def test_replies_are_read_by_choice(answer: Any, texts: list[str] | None) -> None:
    assert reply_texts(json.dumps(answer).encode()) == texts


def read(data: bytes, cuts: list[int]) -> list[str]:
    """The replies in a stream that comes in these pieces."""
    stream, start = StreamedReply(), 0
    for place in [*sorted(cuts), len(data)]:
        stream.feed(data[start:place])
        start = place
    return stream.texts()


@given(st.lists(TEXTS, max_size=6), st.data(), st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_a_stream_reads_the_same_however_it_is_cut(
    texts: list[str], data: st.DataObject, newline: bytes
) -> None:
    stream = events(*texts).replace(b"\n", newline)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=20))
    assert read(stream, cuts) == read(stream, []) == ["".join(texts)]


def test_odd_streams_are_read_as_far_as_they_are_streams() -> None:
    choices = b'data: {"choices":[{"index":1,"text":"b"},{"index":0,"text":"a"},{"index":1}]}\n'
    odd = b"data: not json\ndata:\n: ping\nevent: x\ndata: {}\n" + choices + b"data: cut {"
    assert read(odd, []) == ["a", "b"]
    assert read(b"", []) == [""]
    assert read(b"data: " + b"x" * (5 << 20) + b"\n" + choices, [9 << 19]) == ["a", "b"]


def test_the_last_prompts_are_what_the_replies_are_to() -> None:
    def asked(*messages: dict[str, object]) -> list[str]:
        return last_prompts(CHAT, json.dumps({"messages": list(messages)}).encode())

    first, other = {"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}
    parts = [{"type": "text", "text": "three"}, {"type": "text", "text": "four"}]
    assert asked(first) == ["one"]
    assert asked(first, other, {"role": "user", "content": parts}) == ["three\nfour"]
    assert asked(first, other) == []
    for body in (b'{"messages": []}', b"{", b'{"messages": [{"role": "user", "content": 3}]}'):
        assert last_prompts(CHAT, body) == []
    assert last_prompts(RAW, b'{"prompt": ["a", "b"]}') == ["a", "b"]
    assert last_prompts(RAW, b'{"prompt": "a"}') == ["a"]
    assert last_prompts(RAW, b'{"prompt": 3}') == []
