"""docs/formats/execution.md and bundle.md: statements, agreement, chain, and a proof bundle end to end.

The fold here knows what a lawful bundle can hold; whatever else comes is refused.
"""

import re

from . import contract, membership, note
from .base import (VERSION, Envelope, H, Refused, base64, canonical, consistent, included, is_hex32, is_id, is_int, leaf_hash, members, need, parse_json,
                   sha256, tree_root, unbase64)
from .record import ATTESTATION, MAX_BUNDLE, commitment, decode, parse_opening, parse_record

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


class stage:
    """Whatever is refused within is refused with this code, if it has none of the codes let through."""

    def __init__(self, code, *through):
        self.code, self.through = code, (code, *through)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if kind is Refused and error.code not in self.through:
            raise Refused(self.code, str(error)) from None


class Bundle:
    def __init__(self, schema, data):
        """Step 1 without what the caller asked for."""
        self.schema = schema
        need(len(data) <= MAX_BUNDLE and data.startswith(b"tallystick-bundle/"), "format", "first line")
        need(data.startswith(b"tallystick-bundle/1.0 sha256:"), "version", "first line")
        m = re.match(rb"[^ ]+ sha256:([0-9a-f]{64})\n", data)
        need(m, "format", "first line")
        body = data[m.end():]
        need(m[1].decode() == sha256(body).hex(), "damaged")
        with stage("format", "version"):
            b = self.body = decode(schema, "ProofBundle", body)
            need(b.get("protocol_version") == VERSION, "version", str(b.get("protocol_version")))
            external, changes, records = b.get("external_membership", False), b.get("membership_changes", []), b.get("records", [])
            need(is_id(b.get("cluster")) and len(b.get("execution_id", b"")) == 32, "format", "header")
            need(external == (not changes) and len(changes) <= 100000 and 1 <= len(records) <= 4096, "format", "lists")
            need(all(1 <= len(b.get(n + "_checkpoint", b"")) <= note.MAX_NOTE for n in ("audit", "request", "membership"))
                 and all(1 <= len(c) <= membership.MAX_CHANGE for c in changes), "format", "size")
            proofs = [b.get("consistency_proof", []), *(r.get("inclusion_proof", []) for r in records)]
            need(all(len(p) <= 64 and all(len(h) == 32 for h in p) for p in proofs), "format", "proof")
            indexes = [r.get("index", 0) for r in records]
            need(indexes == sorted(set(indexes)), "format", "records are not ascending")
            for r in records:
                parse_opening(r.get("opening", b""))

    def verify(self, genesis, audit_policy, membership_policy, asked=None):
        """The rest, in order; returns what the report says of checkpoints and execution."""
        b, report = self.body, {"cluster": self.body["cluster"]}
        need(asked in (None, b["execution_id"].hex()), "other_execution", asked)
        policies = {"audit": note.Policy(audit_policy), "membership": note.Policy(membership_policy)}
        need(all(len({k.name for k in p.logs}) == 1 for p in policies.values()), "trust")
        policies["request"] = policies["audit"]
        for name in ("audit", "membership", "request"):
            with stage(name + "_checkpoint"):
                checkpoint, times = policies[name].verify(b[name + "_checkpoint"])
            setattr(self, name, checkpoint)
            report[name + "_checkpoint"] = {
                "origin": checkpoint.origin, "size": checkpoint.size, "root_hash": base64.b64encode(checkpoint.root).decode(),
                "cosignatures": [{"witness": w, "timestamp": t} for w, t in times.items()]}
        need(not b.get("external_membership"), "external_membership")
        changes = b["membership_changes"]
        need(changes[0] == genesis, "genesis")
        need(len(changes) == self.membership.size, "membership", "size")
        with stage("trust"):
            membership.follow(None, genesis)
        with stage("membership"):
            self.history = membership.History(changes)
        need(self.history.states[1].cluster == b["cluster"], "other_execution", b["cluster"])
        self.log_leaves = [leaf_hash(c) for c in changes]
        need(tree_root(self.log_leaves) == self.membership.root, "membership", "root")
        for name, which in (("audit", "audit"), ("request", "audit"), ("membership", "membership")):
            origin = getattr(self, name).origin
            known = {k for s in self.history.states.values() if s.logs[which]["origin"] == origin for k in s.logs[which]["keys"]}
            keys = [k for k in policies[name].logs if k.name == origin and k.text in known]
            need(note.Note(b[name + "_checkpoint"]).signed_by_log(keys), "log_keys", name)
        need(consistent(self.request.size, self.request.root, self.audit.size, self.audit.root,
                        b.get("consistency_proof", [])), "consistency")
        self.entries = []
        for r in b["records"]:
            salt, raw = parse_opening(r["opening"])
            index, entry = r.get("index", 0), commitment(salt, raw)
            need(included(leaf_hash(entry), index, self.audit.size, r.get("inclusion_proof", []), self.audit.root),
                 "inclusion", index)
            with stage("record"):
                kind, message = parse_record(self.schema, raw)
            self.entries.append((index, entry, kind, message))
        with stage("rules", "incomplete", "provenance"):
            self.select()
            report["execution"] = self.fold()
        return report

    def select(self):
        """Which records a bundle holds, whether or not each is valid where it stands."""
        kinds = [kind for _, _, kind, _ in self.entries]
        need(set(kinds) <= {"contract", "request", "epoch", "reschedule", "attestation", "provenance"}, "rules", "kind")
        need(all(kinds.count(kind) == 1 for kind in ("contract", "request", "provenance")), "rules", "one of each")
        need(kinds[-1] == "provenance" and kinds[:kinds.index("request")].count("epoch") == 1, "rules", "order")
        need(all(m["cluster"] == self.body["cluster"] for _, _, _, m in self.entries), "rules", "other cluster")

    def fold(self):
        self.epoch, self.attempt, self.heard, self.complete, self.done = 0, 0, {}, None, None
        self.tenant, self.ranking = None, []  # until the contract and the request are met
        self.chain, self.linked = chain_start(self.body["execution_id"]), 0
        for index, entry, kind, message in self.entries:
            body, handler = message[kind], getattr(self, "on_" + kind)
            need(body.get("execution_id", self.body["execution_id"]) == self.body["execution_id"], "rules", "about another")
            handler(index, body)
            if kind in ("request", "reschedule", "attestation", "provenance"):
                self.chain, self.linked = chain_next(self.chain, index, entry), self.linked + 1
        return self.done

    def on_epoch(self, index, r):
        need(not self.epoch or r["epoch"] == self.epoch + 1, "rules", "epoch")
        need(r["epoch"] in self.history.states, "rules", "epoch unknown")
        state = self.history.states[r["epoch"]]
        need(r["membership_size"] == r["epoch"] and r["membership_root"] == tree_root(self.log_leaves[:r["epoch"]])
             and r["membership_hash"] == state.membership_hash()
             and r["cluster_identity_hash"] == state.identity_hash(), "rules", "epoch")
        self.epoch = r["epoch"]

    def on_contract(self, index, r):
        need(r["epoch"] in self.history.states, "rules", "epoch unknown")
        state = self.history.states[r["epoch"]]
        need(not self.tenant and (not self.epoch or r["epoch"] == self.epoch), "rules", "contract")
        payload, self.terms = contract.verify("contract", r["envelope"], self.body["cluster"],
                                              {r["tenant"]: state.keys(r["tenant"], "contract")})
        need(r["contract_hash"] == sha256(payload), "rules", "contract hash")
        self.within_limits(state)
        self.contract_hash, self.registered, self.tenant = r["contract_hash"], r["epoch"], r["tenant"]
        self.contract_key = next(iter(Envelope(r["envelope"], contract.TYPE % "contract").signatures))

    def within_limits(self, state):
        limits = self.terms["limits"]
        need(all(v <= state.limits[n] for n, v in limits.items())
             and self.terms["max_assigned"] <= state.limits["max_assigned"]
             and contract.argument_bytes(self.terms) <= state.limits["argument_bytes"], "rules", "limits")

    def on_request(self, index, r):
        need(self.tenant and not self.ranking, "rules", "one contract, then one request")
        need(r["epoch"] == self.epoch and r["tenant"] == self.tenant and r["contract_hash"] == self.contract_hash, "rules")
        self.pinned = state = self.history.states[self.epoch]
        payload, s = contract.verify("submission", r["envelope"], self.body["cluster"],
                                     {r["tenant"]: state.keys(r["tenant"], "submission")})
        need(contract.execution_id(s) == r["execution_id"] and s["contract"] == self.contract_hash.hex(), "rules", "request")
        need(self.epoch <= s["last_epoch"] and self.epoch <= self.terms.get("expires_epoch", self.epoch), "rules", "expired")
        need(not self.history.revoked(self.contract_key, self.registered, self.epoch), "rules", "revoked")
        self.within_limits(state)
        need(sum(p["kind"] == "node" for p in state.principals.values()) >= state.quorum, "rules", "node quorum")
        eligible = state.eligible(self.terms.get("min_trust_level", 0), self.terms.get("node_labels", {}))
        need(len(eligible) >= self.terms["nodes"], "rules", "eligible")
        self.ranking = membership.rank(r["execution_id"], eligible)
        self.schedule = membership.schedule_hash(r["execution_id"], state.membership_hash(), self.assigned(0))
        self.submission, self.submission_digest, self.requested = s, sha256(payload), index

    def assigned(self, number):
        need(self.ranking, "rules", "no request before it")
        t = self.terms
        return membership.attempt(self.ranking, number, t["nodes"], t["step"], t["max_assigned"])

    def on_reschedule(self, index, r):
        need(r["attempt"] == self.attempt + 1 and self.assigned(self.attempt + 1) != self.assigned(self.attempt), "rules")
        self.attempt += 1

    def on_attestation(self, index, r):
        node = r["node"]
        need(not self.complete, "rules", "evidence")
        need(r["epoch"] == self.epoch and node in self.assigned(self.attempt), "rules", node)
        for state in (self.pinned, self.history.states[self.epoch]):
            payload, (_, x, i, digests) = open_attestation(r["envelope"], state.keys(node, "attestation"))
        self.check_statement(x, i, digests, index, node)
        agreed = (i["result_digest"], canonical(i["request_checkpoint"]))
        told = self.heard.setdefault(node, [])
        need(len(told) < 2 and agreed not in [a for a, _, _, _ in told], "rules", "nothing new")
        told.append((agreed, sha256(payload), index, i))
        self.complete = index if self.agreeing() else None

    def check_statement(self, x, i, digests, index, node):
        s = self.submission
        first = next(a for a in range(self.attempt + 1) if node in self.assigned(a))
        implied = dict(s, contract=s["contract"], submission=self.submission_digest.hex())
        need(all(v == implied.get(n) for n, v in x.items()) and x.get("parents") == s.get("parents"), "rules", "external")
        need((i["attempt"], i["cluster_schedule_hash"], i["epoch"], i["membership_hash"], i["node"]) == (
            first, self.schedule.hex(), self.pinned.epoch, self.pinned.membership_hash().hex(), node), "rules", "internal")
        need(digests[0] == self.terms["module"] and contract.possible(i["outcome"], self.terms), "rules", "outcome")
        self.parent_outputs = digests[2:]
        m, q = i["membership_checkpoint"], i["request_checkpoint"]
        need(m["origin"] == self.pinned.logs["membership"]["origin"] and self.pinned.epoch <= m["size"] <= self.epoch
             and base64.b64decode(m["root_hash"]) == tree_root(self.log_leaves[:m["size"]]), "rules", "membership checkpoint")
        need(q["origin"] == self.pinned.logs["audit"]["origin"] and self.requested < q["size"] <= index, "rules",
             "request checkpoint")

    def agreeing(self):
        """The agreeing set that makes the execution complete, ascending, or none."""
        votes = {node: told[0] for node, told in self.heard.items() if len(told) == 1}
        for agreed in {v[0] for v in votes.values()}:
            nodes = sorted(n for n in votes if votes[n][0] == agreed)
            if len(nodes) >= self.terms["agreement"] and 2 * len(nodes) > len(votes):
                return [(n, *votes[n][1:]) for n in nodes]
        return []

    def on_provenance(self, index, r):
        agreed = self.agreeing()
        need(agreed and self.complete, "incomplete")
        _, _, _, i = agreed[0]
        state, s, q, raw = self.pinned, self.submission, agreed[0][3]["request_checkpoint"], bytes.fromhex
        derived = {
            "execution_id": self.body["execution_id"], "tenant": self.tenant, "contract_hash": self.contract_hash,
            "nodes": [n for n, _, _, _ in agreed], "cluster_schedule_hash": self.schedule,
            "audit_root": {"origin": q["origin"], "size": q["size"], "root_hash": base64.b64decode(q["root_hash"])},
            "execution_proof": execution_proof(self.body["execution_id"], self.contract_hash, raw(s["input"]), self.schedule,
                                               raw(i["result_digest"])),
            "epoch": state.epoch, "membership_hash": state.membership_hash(), "input_digest": raw(s["input"]),
            "output_digest": raw(i["outcome"]["output_digest"]), "result_digest": raw(i["result_digest"]),
            "attestation_digests": [d for _, d, _, _ in agreed], "completed_at": self.complete}
        if "parents" in s:
            derived["parents"] = [raw(p) for p in s["parents"]]
        need(r == derived, "provenance")
        need((self.request.origin, self.request.size, self.request.root) == tuple(
            derived["audit_root"][n] for n in ("origin", "size", "root_hash")), "provenance", "request checkpoint")
        self.done = Report(self, derived, i["outcome"], agreed, index)


class Report:
    """What the bundle proves, in the words of the verifier's report."""

    def __init__(self, b, derived, outcome, agreed, index):
        self.bundle = b
        names = ("contract_hash", "input_digest", "membership_hash", "cluster_schedule_hash", "result_digest", "execution_proof")
        self.values = {
            **{n: derived[n].hex() for n in names}, "id": derived["execution_id"].hex(), "tenant": b.tenant,
            "contract_name": b.terms["name"], "contract_version": b.terms["version"], "module_digest": b.terms["module"],
            "parents": [{"id": p, "output_digest": o} for p, o in zip(b.submission.get("parents", []), b.parent_outputs)],
            "epoch": derived["epoch"], "attempt": b.attempt, "assigned": b.assigned(b.attempt),
            "agreement": b.terms["agreement"], "outcome": outcome,
            "nodes": [{"id": n, "attestation_digest": d.hex(), "index": at} for n, d, at, _ in agreed],
            "request_index": b.requested, "completed_at": derived["completed_at"], "provenance_index": index}

    def as_dict(self):
        return dict(self.values, chain_head=self.bundle.chain.hex(), chain_length=self.bundle.linked)
