"""Who owns a model and what they value ("Training AI to be Loyal", section 3); so far the values.

    from loyal.community import Approvals, Case, Constitution, Value, constitution_file, lint
    from loyal.signing import SigningKey

    cases = (
        Case("Who borrowed it?", "I do not tell that.", "Your neighbor did."),
        Case("What does my son read?", "Ask him.", "He reads ghost stories."),
    )
    privacy = Value("privacy", "Says nothing of what others read.", 10_000, cases=cases)
    ours = Constitution("our-library", "1.0.0", (privacy,))
    assert constitution_file.from_toml(constitution_file.to_toml(ours)) == ours
    assert {one.rule for one in lint.check(ours)} == {"no-why", "no-topics"}

    member = SigningKey.generate()
    assert Approvals().signed_by(member, ours).verify(ours) == (member.public,)

Nouns are exported here; verbs are modules: `constitution_file` reads and writes, `lint` checks,
`difference` compares versions, `overlap` finds texts that are alike. No model, no torch, no clock.
"""

from loyal.community.approval import Approvals
from loyal.community.constitution import Case, Constitution, Exchange, RedLine, Value
from loyal.community.difference import Difference, FieldChange, ValueChange
from loyal.community.lint import Finding

__all__ = [
    "Approvals",
    "Case",
    "Constitution",
    "Difference",
    "Exchange",
    "FieldChange",
    "Finding",
    "RedLine",
    "Value",
    "ValueChange",
]
