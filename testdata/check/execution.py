"""docs/formats/execution.md but for the fold: statements, execution proof and chain."""

import re

from . import contract
from .base import VERSION, Envelope, H, Refused, is_hex32, is_id, is_int, members, need, parse_json, unbase64
from .record import ATTESTATION

PROJECT = "https://github.com/tallystick/tallystick/"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"


def parse_statement(payload):
    """The value of a statement, held to its members and to what it says twice."""
    s = parse_json(payload)
    members(s, "_type predicate predicateType subject")
    members(s["predicate"], "buildDefinition runDetails")
    build, run = s["predicate"]["buildDefinition"], s["predicate"]["runDetails"]
    members(build, "buildType externalParameters internalParameters resolvedDependencies")
    members(run, "builder metadata")
    members(run["metadata"], "invocationId")
    members(run["builder"], "id", "version")
    software = run["builder"].get("version", {"tallystick": "-"})
    members(software, "tallystick")
    need(isinstance(software["tallystick"], str) and contract.TEXT.fullmatch(software["tallystick"]), "value", "version")
    x, i = build["externalParameters"], build["internalParameters"]
    members(x, "cluster contract input submission tenant", "parents")
    members(i, "attempt cluster_schedule_hash epoch membership_checkpoint membership_hash node outcome protocol_version"
            " request_checkpoint result_digest", "rewritten_module")
    for name in ("membership_checkpoint", "request_checkpoint"):
        members(i[name], "origin root_hash size")
        need(is_int(i[name]["size"], 1) and len(unbase64(i[name]["root_hash"], "syntax")) == 32, "value", name)
        need(isinstance(i[name]["origin"], str) and re.fullmatch(r"[!-~]{1,255}", i[name]["origin"]), "value", "origin")
    need(is_id(x["cluster"]) and is_id(x["tenant"]) and is_id(i["node"]), "value", "identifier")
    need(is_int(i["epoch"], 1) and is_int(i["attempt"]), "value", "epoch or attempt")
    contract.check_outcome(i["outcome"])
    need(isinstance(build["resolvedDependencies"], list), "syntax", "dependencies")
    for dependency in build["resolvedDependencies"]:
        members(dependency, "digest name")
        members(dependency["digest"], "sha256")
    digests = [d["digest"]["sha256"] for d in build["resolvedDependencies"]]
    hashes = [x["contract"], x["input"], x["submission"], run["metadata"]["invocationId"], i["cluster_schedule_hash"],
              i["membership_hash"], i["result_digest"], i.get("rewritten_module", "0" * 64), *x.get("parents", []), *digests]
    need(all(map(is_hex32, hashes)) and x.get("parents") != [], "syntax", "digests")
    need(i["protocol_version"] == VERSION, "protocol_version")
    need(s["_type"] == STATEMENT and s["predicateType"] == PREDICATE and build["buildType"] == PROJECT + "execution/v1"
         and run["builder"]["id"] == f"{PROJECT}node/{x['cluster']}/{i['node']}", "value", "fixed text")
    need(i["result_digest"] == contract.result_digest(i["outcome"]).hex(), "value", "result digest")
    need(s["subject"] == [{"digest": {"sha256": i["outcome"]["output_digest"]}, "name": "output"}], "value", "subject")
    named = ["module", "input"] + [f"parent-{n}" for n in range(len(x.get("parents", [])))]
    need([d["name"] for d in build["resolvedDependencies"]] == named, "value", "dependencies")
    need(digests[1] == x["input"], "value", "input")
    return s, x, i, digests


def open_attestation(data, keys):
    """Payload and statement of an attestation that exactly one of keys signed."""
    envelope = Envelope(data, ATTESTATION)
    need(len(envelope.signatures) == 1, "signatures")
    envelope.verify(keys)
    try:
        return envelope.payload, parse_statement(envelope.payload)
    except Refused as error:
        raise Refused("statement", str(error)) from None


def execution_proof(execution, contract_hash, input_digest, schedule_hash, result):
    return H("execution-proof", execution, contract_hash, input_digest, schedule_hash, result)


def chain_start(execution):
    return H("chain", execution)


def chain_next(head, index, entry):
    return H("chain-link", head, index, entry)
