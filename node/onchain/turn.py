"""The working copy of one step of the resolution."""

from msgspec.structs import replace

from node.onchain.events import Effect, Env, Step, Unwatch, Watch
from node.onchain.state import Claim, Facts, HtlcFact, HtlcKey, Output, State


class Turn:
    """The working copy of one step."""

    def __init__(self, state: State, env: Env) -> None:
        self.state = state
        self.env = env
        self.effects: list[Effect] = []
        self.save = False

    @property
    def facts(self) -> Facts:
        return self.state.facts

    @property
    def htlcs(self) -> dict[HtlcKey, HtlcFact]:
        return {htlc.key: htlc for htlc in self.state.facts.htlcs}

    def do(self, effect: Effect) -> None:
        self.effects.append(effect)

    def become(self, state: State) -> None:
        if state != self.state:
            self.state = state
            self.save = True

    def put_output(self, changed: Output) -> None:
        outputs = tuple(changed if o.at == changed.at else o for o in self.state.outputs)
        self.become(replace(self.state, outputs=outputs))

    def put_claim(self, changed: Claim) -> None:
        kept = tuple(changed if c.id == changed.id else c for c in self.state.claims)
        self.become(replace(self.state, claims=kept))

    def claim(self, claim_id: int) -> Claim | None:
        return next((c for c in self.state.claims if c.id == claim_id), None)

    def outputs(self, claim: Claim) -> list[Output]:
        members = set(claim.outputs)
        return [o for o in self.state.outputs if o.at in members]

    def watch(self, output: Output) -> None:
        since = self.env.height if output.height is None else output.height
        self.do(Watch(output.txid, output.index, output.script, since))

    def unwatch(self, output: Output) -> None:
        self.do(Unwatch(output.txid, output.index))

    def step(self) -> Step:
        return Step(self.state, tuple(self.effects), self.save)
