"""Every RPC of ``macp.v1.MACPRuntimeService``, once."""

from __future__ import annotations

from typing import Final, TypeVar

from google.protobuf.message import Message as Protobuf
from macp.v1 import core_pb2, policy_pb2

from macp_rx.transport.base import Method

__all__ = [
    "CANCEL_SESSION",
    "GET_DECISION_RECEIPT",
    "GET_MANIFEST",
    "GET_POLICY",
    "GET_RECEIPT_KEYS",
    "GET_SESSION",
    "INITIALIZE",
    "LIST_EXT_MODES",
    "LIST_MODES",
    "LIST_POLICIES",
    "LIST_ROOTS",
    "LIST_SESSIONS",
    "PROMOTE_MODE",
    "REGISTER_EXT_MODE",
    "REGISTER_POLICY",
    "RESUME_SESSION",
    "SEND",
    "STREAM_SESSION",
    "SUSPEND_SESSION",
    "UNREGISTER_EXT_MODE",
    "UNREGISTER_POLICY",
    "WATCH_MODE_REGISTRY",
    "WATCH_POLICIES",
    "WATCH_ROOTS",
    "WATCH_SESSIONS",
    "WATCH_SIGNALS",
    "WHAT_IF_REPLAY",
]

Req = TypeVar("Req", bound=Protobuf)
Res = TypeVar("Res", bound=Protobuf)


def _method(name: str, request: type[Req], response: type[Res]) -> Method[Req, Res]:
    """An RPC of ``macp.v1.MACPRuntimeService``, checked against the service descriptor.

    Args:
        name: the RPC's name, such as ``Send``.
        request: its request class.
        response: its response class.
    """
    service = core_pb2.DESCRIPTOR.services_by_name["MACPRuntimeService"]
    found = service.methods_by_name[name]
    if (found.input_type, found.output_type) != (request.DESCRIPTOR, response.DESCRIPTOR):
        raise TypeError(f"{name} takes {found.input_type.name} and answers {found.output_type.name}")
    return Method(
        f"/{service.full_name}/{name}",
        request,
        response,
        client_streaming=found.client_streaming,
        server_streaming=found.server_streaming,
    )


INITIALIZE: Final = _method("Initialize", core_pb2.InitializeRequest, core_pb2.InitializeResponse)
SEND: Final = _method("Send", core_pb2.SendRequest, core_pb2.SendResponse)
STREAM_SESSION: Final = _method("StreamSession", core_pb2.StreamSessionRequest, core_pb2.StreamSessionResponse)
GET_SESSION: Final = _method("GetSession", core_pb2.GetSessionRequest, core_pb2.GetSessionResponse)
CANCEL_SESSION: Final = _method("CancelSession", core_pb2.CancelSessionRequest, core_pb2.CancelSessionResponse)
SUSPEND_SESSION: Final = _method("SuspendSession", core_pb2.SuspendSessionRequest, core_pb2.SuspendSessionResponse)
RESUME_SESSION: Final = _method("ResumeSession", core_pb2.ResumeSessionRequest, core_pb2.ResumeSessionResponse)
GET_MANIFEST: Final = _method("GetManifest", core_pb2.GetManifestRequest, core_pb2.GetManifestResponse)
LIST_MODES: Final = _method("ListModes", core_pb2.ListModesRequest, core_pb2.ListModesResponse)
WATCH_MODE_REGISTRY: Final = _method(
    "WatchModeRegistry", core_pb2.WatchModeRegistryRequest, core_pb2.WatchModeRegistryResponse
)
LIST_ROOTS: Final = _method("ListRoots", core_pb2.ListRootsRequest, core_pb2.ListRootsResponse)
WATCH_ROOTS: Final = _method("WatchRoots", core_pb2.WatchRootsRequest, core_pb2.WatchRootsResponse)
LIST_EXT_MODES: Final = _method("ListExtModes", core_pb2.ListExtModesRequest, core_pb2.ListExtModesResponse)
REGISTER_EXT_MODE: Final = _method("RegisterExtMode", core_pb2.RegisterExtModeRequest, core_pb2.RegisterExtModeResponse)
UNREGISTER_EXT_MODE: Final = _method(
    "UnregisterExtMode", core_pb2.UnregisterExtModeRequest, core_pb2.UnregisterExtModeResponse
)
PROMOTE_MODE: Final = _method("PromoteMode", core_pb2.PromoteModeRequest, core_pb2.PromoteModeResponse)
WATCH_SIGNALS: Final = _method("WatchSignals", core_pb2.WatchSignalsRequest, core_pb2.WatchSignalsResponse)
LIST_SESSIONS: Final = _method("ListSessions", core_pb2.ListSessionsRequest, core_pb2.ListSessionsResponse)
WATCH_SESSIONS: Final = _method("WatchSessions", core_pb2.WatchSessionsRequest, core_pb2.WatchSessionsResponse)
REGISTER_POLICY: Final = _method("RegisterPolicy", policy_pb2.RegisterPolicyRequest, policy_pb2.RegisterPolicyResponse)
UNREGISTER_POLICY: Final = _method(
    "UnregisterPolicy", policy_pb2.UnregisterPolicyRequest, policy_pb2.UnregisterPolicyResponse
)
GET_POLICY: Final = _method("GetPolicy", policy_pb2.GetPolicyRequest, policy_pb2.GetPolicyResponse)
LIST_POLICIES: Final = _method("ListPolicies", policy_pb2.ListPoliciesRequest, policy_pb2.ListPoliciesResponse)
WATCH_POLICIES: Final = _method("WatchPolicies", policy_pb2.WatchPoliciesRequest, policy_pb2.WatchPoliciesResponse)
WHAT_IF_REPLAY: Final = _method("WhatIfReplay", policy_pb2.WhatIfReplayRequest, policy_pb2.WhatIfReplayResponse)
GET_DECISION_RECEIPT: Final = _method(
    "GetDecisionReceipt", core_pb2.GetDecisionReceiptRequest, core_pb2.GetDecisionReceiptResponse
)
GET_RECEIPT_KEYS: Final = _method("GetReceiptKeys", core_pb2.GetReceiptKeysRequest, core_pb2.GetReceiptKeysResponse)
