"""A log that is now and then dishonest, against one witness, in every order that is found."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    precondition,
    rule,
)
from log_stage import LOG_NAME, NOW, head, log_signer, request, witness_signer

from loyal.merkle import verify_consistency
from loyal.protocol import Checkpoint, Cosigned, Ledger, SignedCheckpoint, WitnessState, witness
from loyal.protocol.evidence import prove_fork, verify_evidence


class LogAndWitness(RuleBasedStateMachine):
    """Branches grow as they like; all that the witness cosigns stays one growing log."""

    branches = Bundle("branches")

    def __init__(self) -> None:
        super().__init__()
        self.log, self.witness = log_signer(LOG_NAME), witness_signer("example.com/witness")
        self.state = WitnessState().watch(self.log.verifier)
        self.cosigned: list[tuple[Ledger, SignedCheckpoint]] = []
        self.time = NOW

    @rule(target=branches)
    def start(self) -> Ledger:
        return Ledger(LOG_NAME)

    @rule(target=branches, ledger=branches, entries=st.lists(st.binary(max_size=1), max_size=5))
    def append(self, ledger: Ledger, entries: list[bytes]) -> Ledger:
        return ledger.append(*entries)

    @rule(target=branches, ledger=branches, data=st.data())
    def cut(self, ledger: Ledger, data: st.DataObject) -> object:
        size = data.draw(st.integers(0, len(ledger)))
        kept = [ledger[index] for index in range(size)]
        return multiple(Ledger(LOG_NAME, kept), Ledger(LOG_NAME, [*kept[:-1], b"rewritten"]))

    @rule(ledger=branches, guess=st.integers(0, 20), honest=st.booleans(), later=st.integers(0, 3))
    def ask(self, ledger: Ledger, guess: int, honest: bool, later: int) -> None:
        known = self.state.logs[LOG_NAME].size
        self.time += later
        old_size = known if honest else guess
        asked = request(ledger, self.log, old_size)
        answer = witness.cosign(self.witness, self.state, asked, self.time)
        grown = not self.cosigned or self._grew(ledger)
        assert isinstance(answer, Cosigned) == (grown and old_size == known)
        if isinstance(answer, Cosigned):
            self.state = answer.state
            self.cosigned.append((ledger, head(ledger, self.log)))
            return
        assert answer.known_size == known
        if answer.evidence:
            assert not grown
            verify_evidence(answer.evidence, self.log.verifier)

    def _grew(self, ledger: Ledger) -> bool:
        return ledger.holds(self.cosigned[-1][1].checkpoint)

    @precondition(lambda self: self.cosigned)
    @rule(ledger=branches)
    def audit(self, ledger: Ledger) -> None:
        seen, signed = self.cosigned[-1]
        larger = max(seen, ledger, key=len)
        evidence = prove_fork(signed, head(ledger, self.log), larger)
        one_log = self._grew(ledger) or seen.holds(ledger.checkpoint())
        assert (evidence is None) == one_log
        if evidence is not None:
            verify_evidence(evidence, self.log.verifier)

    @invariant()
    def one_growing_log(self) -> None:
        heads = [signed.checkpoint for _, signed in self.cosigned[-2:]]
        if len(heads) == 2:
            self._consistent(*heads)

    def _consistent(self, old: Checkpoint, new: Checkpoint) -> None:
        assert old.size <= new.size
        proof = self.cosigned[-1][0].consistency_proof(old.size)
        assert verify_consistency(old.root, new.root, old.size, new.size, proof)


TestLogAndWitness = LogAndWitness.TestCase
TestLogAndWitness.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
