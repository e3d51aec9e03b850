"""The registries of modes and of policies: who may change them, and to what (`protocol.md` 1.2, 5.3)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from macp.v1 import core_pb2, policy_pb2

from macp_rx.errors import MacpRefusedError
from macp_rx.protocol.messages import STANDARD_MODES
from macp_rx.protocol.modes import Registered
from macp_rx.protocol.modes.passthrough import Passthrough
from macp_rx.protocol.policy import BUILT_IN, DEFAULT, Policy, policy_from
from macp_rx.protocol.validation import is_blank
from macp_rx.runtime.identity import Identity
from macp_rx.runtime.state import (
    ModeAdded,
    ModePromoted,
    ModeRemoved,
    PolicyAdded,
    PolicyRemoved,
    Result,
    State,
)

__all__ = [
    "changed",
    "get_policy",
    "list_ext_modes",
    "list_modes",
    "list_policies",
    "policies",
    "promote_mode",
    "register_ext_mode",
    "register_policy",
    "unregister_ext_mode",
    "unregister_policy",
    "with_policies",
]


def changed(state: State, change: ModeAdded | ModePromoted | ModeRemoved | PolicyAdded | PolicyRemoved) -> State:
    """The state after a change of a registry, which was found fit before."""
    modes, policies = state.modes, state.policies
    match change:
        case ModeAdded(descriptor):
            modes = modes.set(descriptor.mode, Registered(Passthrough(descriptor), descriptor))
        case ModePromoted(mode, name):
            known = modes[mode]
            descriptor = core_pb2.ModeDescriptor()
            descriptor.CopyFrom(known.descriptor)
            descriptor.mode = name
            modes = modes.delete(mode).set(name, replace(known, descriptor=descriptor, standards_track=True))
        case ModeRemoved(mode):
            modes = modes.delete(mode)
        case PolicyAdded(policy):
            policies = policies.set(policy.policy_id, policy)
        case PolicyRemoved(policy_id):
            policies = policies.delete(policy_id)
    return replace(state, modes=modes, policies=policies)


def _check_manages(caller: Identity | None) -> None:
    if caller is not None:
        caller.check_manages()


# Modes


def list_modes(state: State, caller: Identity | None, request: core_pb2.ListModesRequest, now: int) -> Result:
    """ListModes: the standard modes in the order of their RFCs, then the promoted ones by name."""
    promoted = sorted(name for name, mode in state.modes.items() if mode.standards_track and name not in STANDARD_MODES)
    modes = [state.modes[name].descriptor for name in (*STANDARD_MODES, *promoted)]
    return Result(state, core_pb2.ListModesResponse(modes=modes))


def list_ext_modes(state: State, caller: Identity | None, request: core_pb2.ListExtModesRequest, now: int) -> Result:
    """ListExtModes: the others, by name."""
    modes = [mode.descriptor for _, mode in sorted(state.modes.items()) if not mode.standards_track]
    return Result(state, core_pb2.ListExtModesResponse(modes=modes))


def register_ext_mode(
    state: State, caller: Identity | None, request: core_pb2.RegisterExtModeRequest, now: int
) -> Result:
    """RegisterExtMode: what is wrong with the descriptor is told in the reply."""
    _check_manages(caller)
    if not request.HasField("mode_descriptor"):
        raise MacpRefusedError("INVALID_REQUEST", "mode_descriptor required")
    descriptor = request.mode_descriptor
    if problem := _unfit(state, descriptor):
        return Result(state, core_pb2.RegisterExtModeResponse(error=problem))
    added = ModeAdded(descriptor)
    return Result(changed(state, added), core_pb2.RegisterExtModeResponse(ok=True), (added,))


def _unfit(state: State, descriptor: core_pb2.ModeDescriptor) -> str:
    """What the first check of `protocol.md` 1.2 (RegisterExtMode) that the descriptor fails says; empty if it is fit."""
    name, terminal = descriptor.mode, descriptor.terminal_message_types
    checks = (
        (is_blank(name), "mode must not be empty"),
        (name.startswith("macp.mode."), "names that begin with macp.mode. are the standard's own"),
        (not descriptor.message_types, "message_types must not be empty"),
        (is_blank(descriptor.mode_version), "mode_version must not be blank"),
        (not terminal, "terminal_message_types must not be empty"),
        (any(one != "Commitment" for one in terminal), "the only terminal message type is Commitment"),
        ("Commitment" not in descriptor.message_types, "message_types must list the terminal type Commitment"),
        (name in state.modes, f"mode {name!r} is registered already"),
    )
    return next((problem for fails, problem in checks if fails), "")


def unregister_ext_mode(
    state: State, caller: Identity | None, request: core_pb2.UnregisterExtModeRequest, now: int
) -> Result:
    """UnregisterExtMode: sessions of the mode then accept nothing more."""
    _check_manages(caller)
    if problem := _unremovable(state, request.mode):
        return Result(state, core_pb2.UnregisterExtModeResponse(error=problem))
    removed = ModeRemoved(request.mode)
    return Result(changed(state, removed), core_pb2.UnregisterExtModeResponse(ok=True), (removed,))


def _unremovable(state: State, mode: str) -> str:
    """Why a mode cannot be removed; empty if it can."""
    known = state.modes.get(mode)
    if known is None:
        return f"mode {mode!r} is not registered"
    if known.built_in:
        return f"mode {mode!r} is built in"
    return f"mode {mode!r} was promoted to the standards track" if known.standards_track else ""


def promote_mode(state: State, caller: Identity | None, request: core_pb2.PromoteModeRequest, now: int) -> Result:
    """PromoteMode: a mode becomes standards-track, under a new name or its own."""
    _check_manages(caller)
    old, new = request.mode, request.promoted_mode_name or request.mode
    if problem := _unpromotable(state, old, new):
        return Result(state, core_pb2.PromoteModeResponse(error=problem))
    promoted = ModePromoted(old, new)
    return Result(changed(state, promoted), core_pb2.PromoteModeResponse(ok=True, mode=new), (promoted,))


def _unpromotable(state: State, old: str, new: str) -> str:
    """Why a mode cannot be promoted to a name; empty if it can."""
    known = state.modes.get(old)
    if known is None:
        return f"mode {old!r} is not registered"
    if known.standards_track:
        return f"mode {old!r} is standards-track already"
    if new != old and new.startswith("macp.mode."):
        return "names that begin with macp.mode. are the standard's own"
    if is_blank(new):
        return "the new name must not be blank"
    return f"mode {new!r} exists already" if new != old and new in state.modes else ""


# Policies


def register_policy(
    state: State, caller: Identity | None, request: policy_pb2.RegisterPolicyRequest, now: int
) -> Result:
    """RegisterPolicy: what is wrong with the policy is told in the reply."""
    _check_writable(state, caller)
    if not request.HasField("policy_descriptor"):
        raise MacpRefusedError("INVALID_REQUEST", "policy_descriptor required")
    try:
        policy = _new_policy(state, request.policy_descriptor)
    except MacpRefusedError as refusal:
        return Result(state, policy_pb2.RegisterPolicyResponse(error=f"{refusal.code}: {refusal.message}"))
    if policy.policy_id in state.policies:
        problem = f"policy '{policy.policy_id}' is already registered"
        return Result(state, policy_pb2.RegisterPolicyResponse(error=problem))
    added = PolicyAdded(policy)
    return Result(changed(state, added), policy_pb2.RegisterPolicyResponse(ok=True), (added,))


def _new_policy(state: State, descriptor: policy_pb2.PolicyDescriptor) -> Policy:
    """The policy, after the checks of `protocol.md` 5.3 but the last, whether the id is taken."""
    policy_id = descriptor.policy_id
    if is_blank(policy_id):
        raise MacpRefusedError("INVALID_POLICY_DEFINITION", "policy_id must not be blank")
    if policy_id == DEFAULT.policy_id:
        raise MacpRefusedError("INVALID_POLICY_DEFINITION", f"{policy_id!r} is built in")
    policy = policy_from(descriptor)
    if policy_id.startswith("policy.std."):
        known = BUILT_IN.get(policy_id)
        if known is None or (policy.mode, policy.schema_version, policy.rules) != (
            known.mode,
            known.schema_version,
            known.rules,
        ):
            raise MacpRefusedError(
                "INVALID_POLICY_DEFINITION", f"'{policy_id}': ids that begin with policy.std. are the standard's own"
            )
    return policy


def with_policies(state: State, descriptors: Iterable[policy_pb2.PolicyDescriptor]) -> State:
    """The state with policies that are there from the start. Raises INVALID_POLICY_DEFINITION, which names the policy."""
    for descriptor in descriptors:
        try:
            policy = _new_policy(state, descriptor)
        except MacpRefusedError as refusal:
            raise MacpRefusedError(refusal.code, f"policy {descriptor.policy_id!r}: {refusal.message}") from None
        if policy.policy_id in state.policies and policy.policy_id not in BUILT_IN:
            raise MacpRefusedError("INVALID_POLICY_DEFINITION", f"policy {policy.policy_id!r} is defined twice")
        state = changed(state, PolicyAdded(policy))
    return state


def unregister_policy(
    state: State, caller: Identity | None, request: policy_pb2.UnregisterPolicyRequest, now: int
) -> Result:
    """UnregisterPolicy: sessions that are bound to it keep it."""
    _check_writable(state, caller)
    policy_id = request.policy_id
    problem = (
        f"cannot unregister the built-in policy '{policy_id}'"
        if policy_id in BUILT_IN
        else ""
        if policy_id in state.policies
        else f"policy '{policy_id}' not found"
    )
    if problem:
        return Result(state, policy_pb2.UnregisterPolicyResponse(error=problem))
    removed = PolicyRemoved(policy_id)
    return Result(changed(state, removed), policy_pb2.UnregisterPolicyResponse(ok=True), (removed,))


def _check_writable(state: State, caller: Identity | None) -> None:
    if state.settings.policies_read_only:
        raise MacpRefusedError("REGISTRY_READ_ONLY", "this runtime's policies come from files")
    _check_manages(caller)


def get_policy(state: State, caller: Identity | None, request: policy_pb2.GetPolicyRequest, now: int) -> Result:
    """GetPolicy."""
    policy = state.policies.get(request.policy_id)
    if policy is None:
        raise MacpRefusedError("UNKNOWN_POLICY_VERSION", f"policy '{request.policy_id}' not found")
    return Result(state, policy_pb2.GetPolicyResponse(policy_descriptor=policy.descriptor()))


def list_policies(state: State, caller: Identity | None, request: policy_pb2.ListPoliciesRequest, now: int) -> Result:
    """ListPolicies: those of a mode and those of any mode; all for an empty mode."""
    return Result(state, policy_pb2.ListPoliciesResponse(descriptors=policies(state, request.mode)))


def policies(state: State, mode: str = "") -> list[policy_pb2.PolicyDescriptor]:
    """The policies that may be bound in a mode, or all of them, by id."""
    return [
        policy.descriptor()
        for _, policy in sorted(state.policies.items())
        if mode in ("", policy.mode) or policy.mode == "*"
    ]
