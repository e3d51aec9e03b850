"""proto/ says the same as the installed macp-proto: no message, field, enum value or RPC more, less or different."""

import importlib
import pkgutil
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import macp
import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, FileDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool

PROTO = Path(__file__).parent.parent / "proto"
TYPES = FieldDescriptorProto.Type.DESCRIPTOR.values_by_number


def compiled(proto: Path, out: Path) -> list[FileDescriptor]:
    """The files below a directory, in a pool of their own: the default one refuses a second macp/v1/envelope.proto."""
    sources = map(str, proto.rglob("*.proto"))
    protoc = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={proto}", f"--descriptor_set_out={out}"]
    subprocess.run([*protoc, *sources], check=True)
    pool = DescriptorPool()
    files = FileDescriptorSet.FromString(out.read_bytes()).file
    for file in files:
        pool.AddSerializedFile(file.SerializeToString())
    return [pool.FindFileByName(file.name) for file in files]


def installed() -> list[FileDescriptor]:
    modules = (module.name for module in pkgutil.walk_packages(macp.__path__, "macp."))
    return [importlib.import_module(name).DESCRIPTOR for name in modules if name.endswith("_pb2")]


def contract(files: list[FileDescriptor]) -> dict[str, str]:
    """Every element by its full name, as all that the wire, JSON and generated code take from it."""
    return dict(fact for file in files for fact in file_facts(file))


def file_facts(file: FileDescriptor) -> Iterator[tuple[str, str]]:
    yield file.name, f"package {file.package} {file.GetOptions()}"
    for message in file.message_types_by_name.values():
        yield from message_facts(message)
    for enum in file.enum_types_by_name.values():
        yield from enum_facts(enum)
    for service in file.services_by_name.values():
        yield from service_facts(service)


def message_facts(message: Descriptor) -> Iterator[tuple[str, str]]:
    yield message.full_name, f"message in {message.file.name} {message.GetOptions()}"
    for field in message.fields:
        yield field.full_name, field_fact(field)
    for nested in message.nested_types:  # a map's entries are among them
        yield from message_facts(nested)
    for enum in message.enum_types:
        yield from enum_facts(enum)


def field_fact(field: FieldDescriptor) -> str:
    kind = field.message_type or field.enum_type
    return (
        f"{'repeated ' * field.is_repeated}{kind.full_name if kind else TYPES[field.type].name} = {field.number}"
        f", presence: {field.has_presence}, packed: {field.is_packed}"
        # the oneof of a proto3 `optional` is its own name with an underscore before it
        f", oneof: {field.containing_oneof and field.containing_oneof.name}, JSON: {field.json_name}"
        f" {field.GetOptions()}"
    )


def enum_facts(enum: EnumDescriptor) -> Iterator[tuple[str, str]]:
    yield enum.full_name, f"enum in {enum.file.name} {enum.GetOptions()}"
    for value in enum.values:
        yield f"{enum.full_name}.{value.name}", f"{value.number} {value.GetOptions()}"


def service_facts(service: ServiceDescriptor) -> Iterator[tuple[str, str]]:
    yield service.full_name, f"service in {service.file.name} {service.GetOptions()}"
    for rpc in service.methods:
        request = "stream " * rpc.client_streaming + rpc.input_type.full_name
        reply = "stream " * rpc.server_streaming + rpc.output_type.full_name
        yield rpc.full_name, f"({request}) returns ({reply}) {rpc.GetOptions()}"


def drift(ours: dict[str, str], theirs: dict[str, str]) -> dict[str, str]:
    return {
        name: f"ours: {ours.get(name, 'nothing')}; theirs: {theirs.get(name, 'nothing')}"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    }


def test_proto_says_what_the_installed_macp_proto_says(tmp_path: Path) -> None:
    assert drift(contract(compiled(PROTO, tmp_path / "ours")), contract(installed())) == {}


@pytest.mark.parametrize(
    ("file", "said", "altered", "drifted"),
    [
        ("decision", "string vote = 2;", "string vote = 9;", ["VotePayload.vote"]),
        ("decision", "string vote = 2;", "bytes vote = 2;", ["VotePayload.vote"]),
        ("decision", "string vote = 2;", "string ballot = 2;", ["VotePayload.ballot", "VotePayload.vote"]),
        ("decision", "string vote = 2;", "", ["VotePayload.vote"]),
        ("multi_round", "string value = 1;", "string value = 1; bool more = 2;", ["ContributePayload.more"]),
        ("proposal", "repeated string tags", "string tags", ["ProposalPayload.tags"]),
        ("policy", "optional uint64", "uint64", ["WhatIfReplayResponse.first_divergence"]),
        ("policy", "SessionState state = 2;", "Kind state = 2;", ["WhatIfEntryOutcome.state"]),
        ("core", "oneof response", "oneof answer", ["StreamSessionResponse.envelope", "StreamSessionResponse.error"]),
        ("core", "map<string, bytes>", "map<string, string>", ["SessionStartPayload.ExtensionsEntry.value"]),
        ("core", "EVENT_TYPE_RESUMED = 5;", "", ["SessionLifecycleEvent.EventType.EVENT_TYPE_RESUMED"]),
        ("core", "message ListRootsRequest {}", "message ListRootsRequest { int32 n = 1; }", ["ListRootsRequest.n"]),
        ("core", "stream WatchRootsResponse", "WatchRootsResponse", ["MACPRuntimeService.WatchRoots"]),
        ("core", "(SendRequest)", "(stream SendRequest)", ["MACPRuntimeService.Send"]),
        ("core", "rpc ListRoots(", "rpc Roots(", ["MACPRuntimeService.ListRoots", "MACPRuntimeService.Roots"]),
        ("envelope", "SESSION_STATE_OPEN = 1;", "SESSION_STATE_OPEN = 9;", ["SessionState.SESSION_STATE_OPEN"]),
        ("envelope", "string code = 1;", "string code = 1 [deprecated = true];", ["MACPError.code"]),
    ],
)
def test_an_altered_proto_is_found_out_by_name(
    file: str, said: str, altered: str, drifted: list[str], tmp_path: Path
) -> None:
    proto = shutil.copytree(PROTO, tmp_path / "proto")
    (source,) = proto.rglob(f"{file}.proto")
    text = source.read_text()
    assert text.count(said) == 1
    source.write_text(text.replace(said, altered))

    before, after = contract(compiled(PROTO, tmp_path / "before")), contract(compiled(proto, tmp_path / "after"))
    package = ".".join(source.relative_to(proto).parent.parts)
    assert list(drift(after, before)) == [f"{package}.{name}" for name in drifted]
