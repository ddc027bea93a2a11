"""docs/formats/execution.md, "The fold": what every record of an audit log, or of a bundle's part of it, does."""

import base64

from . import contract, execution, membership
from .base import Envelope, Refused, canonical, leaf_hash, need, sha256, tree_root

DERIVED = {"complete": "provenance", "diverged": "divergence"}
LINKED = {"request", "reschedule", "cancellation", "provenance", "divergence", "expired"}


class Execution:
    def __init__(self, **members):
        self.__dict__.update(members)
        self.state, self.decided, self.attempt, self.recorded, self.derived = "open", None, 0, False, None
        self.votes, self.agreeing = {}, []  # node → [(opinion, attestation digest, statement)]
        self.told = []  # (node, index, attestation digest, statement) of all that are no evidence, in log order
        self.chain, self.linked = execution.chain_start(self.id), 0

    def assigned(self, attempt):
        t = self.terms
        return membership.attempt(self.ranking, attempt, t["nodes"], t["step"], t["max_assigned"])

    def link(self, index, entry):
        self.chain, self.linked = execution.chain_next(self.chain, index, entry), self.linked + 1

    def judge(self, index):
        """Decides after an attestation, if its votes do."""
        votes = {n: told[0] for n, told in self.votes.items() if len(told) == 1}
        ranks = min(self.terms["max_assigned"], len(self.ranking))
        k, m, u = self.terms["agreement"], len(votes), ranks - len(self.votes)
        sets = {}
        for node, (opinion, _, _) in votes.items():
            sets.setdefault(opinion, []).append(node)
        for nodes in sets.values():
            if len(nodes) >= k and 2 * len(nodes) > m:
                self.state, self.agreeing = "complete", sorted(nodes)
                self.derived = self.provenance(index, votes)
                return
        if not any(n + u >= k and 2 * (n + u) > m + u for n in [0, *map(len, sets.values())]):
            self.state = "diverged"
            self.derived = {"execution_id": self.id, "diverged_at": index, "attestation_digests": [d for _, _, d, _ in self.told]}

    def provenance(self, index, votes):
        raw = bytes.fromhex
        i, s, q = votes[self.agreeing[0]][2], self.submission, votes[self.agreeing[0]][2]["request_checkpoint"]
        self.outcome = i["outcome"]
        out = {"execution_id": self.id, "tenant": self.tenant, "contract_hash": self.contract_hash, "nodes": self.agreeing,
               "cluster_schedule_hash": self.schedule,
               "audit_root": {"origin": q["origin"], "size": q["size"], "root_hash": base64.b64decode(q["root_hash"])},
               "execution_proof": execution.execution_proof(self.id, self.contract_hash, raw(s["input"]), self.schedule,
                                                            raw(i["result_digest"])),
               "epoch": self.pinned.epoch, "membership_hash": self.pinned.membership_hash(), "input_digest": raw(s["input"]),
               "output_digest": raw(i["outcome"]["output_digest"]), "result_digest": raw(i["result_digest"]),
               "attestation_digests": [votes[n][1] for n in self.agreeing], "completed_at": index}
        return dict(out, parents=[raw(p) for p in s["parents"]]) if "parents" in s else out


class Fold:
    def __init__(self, cluster, membership_log, history=None, partial=False):
        """history: that of the log, if it is known. A partial fold gets the records of a bundle, and takes as stated what
        those before them would tell: the epoch of a contract and the first epoch, and the outputs of parents."""
        self.cluster, self.history, self.partial = cluster, history or membership.History(membership_log), partial
        self.leaves = [leaf_hash(entry) for entry in membership_log]
        self.epoch, self.contracts, self.executions = 0, {}, {}

    def apply(self, index, entry, kind, record):
        """Whether the record is evidence, and the execution that it is about or None; refuses a void one with its code."""
        need(record["cluster"] == self.cluster, "other_cluster")
        need(self.epoch or kind == "epoch" or self.partial and kind == "contract", "no_epoch")
        about = getattr(self, "on_" + kind, lambda *_: None)(index, record[kind])
        if kind in LINKED:
            about.link(index, entry)
        if kind == "attestation":
            if about.state != "open":
                return True, about
            about.link(index, entry)
            about.told.append((record[kind]["node"], index, *self.told[1:]))
            about.judge(index)
        if about and about.state != "open" and about.decided is None:
            about.decided = index
        return False, about

    def now(self, record):
        if not self.epoch:  # of a contract in a partial fold only
            need(record["epoch"] in self.history.states, "epoch_unknown")
            return self.history.states[record["epoch"]]
        need(record["epoch"] == self.epoch, "epoch_not_current")
        return self.history.states[self.epoch]

    def open_envelope(self, kind, record, use, state, code, **named):
        """Payload and value of a tenant's envelope, which the record's members restate."""
        keys = {i: state.keys(i, use) for i, p in state.principals.items() if p["kind"] == "tenant"}
        try:
            payload, p = contract.verify(kind, record["envelope"], self.cluster, keys)
        except Refused as error:
            raise Refused(code, str(error)) from None
        named = {n: p[m] for n, m in named.items()}
        need(record["tenant"] == p["tenant"] and all(record[n].hex() == v for n, v in named.items()), code, "record differs")
        return payload, p

    def find(self, execution_id, still_open=False):
        ex = self.executions.get(execution_id)
        need(ex, "execution_unknown")
        need(not still_open or ex.state == "open", "execution_decided", ex.state)
        return ex

    def on_epoch(self, index, r):
        first = self.partial and not self.epoch and all(c["epoch"] < r["epoch"] for c in self.contracts.values())
        need(first or r["epoch"] == self.epoch + 1, "epoch_not_next")
        need(r["epoch"] in self.history.states, "epoch_unknown")
        state = self.history.states[r["epoch"]]
        need((r["membership_size"], r["membership_root"], r["membership_hash"], r["cluster_identity_hash"]) == (
            r["epoch"], tree_root(self.leaves[:r["epoch"]]), state.membership_hash(), state.identity_hash()), "epoch_differs")
        self.epoch = r["epoch"]

    def within(self, terms, size, state):
        most = state.limits
        need(size <= most["module_bytes"] and terms["max_assigned"] <= most["max_assigned"]
             and contract.argument_bytes(terms) <= most["argument_bytes"]
             and all(v <= most[n] for n, v in terms["limits"].items()), "contract_limits")

    def on_contract(self, index, r):
        state = self.now(r)
        payload, terms = self.open_envelope("contract", r, "contract", state, "contract_invalid")
        digest = sha256(payload)
        need(r["contract_hash"] == digest, "contract_invalid")
        need(digest not in self.contracts, "contract_known")
        self.within(terms, r["module_size"], state)
        key = next(iter(Envelope(r["envelope"], contract.TYPE % "contract").signatures))
        self.contracts[digest] = {"terms": terms, "size": r["module_size"], "epoch": r["epoch"], "key": key, "retired": False}

    def contract_of(self, digest, tenant):
        c = self.contracts.get(bytes.fromhex(digest))
        need(c and c["terms"]["tenant"] == tenant, "contract_unknown")
        need(not c["retired"], "contract_retired")
        return c

    def on_retirement(self, index, r):
        _, p = self.open_envelope("retirement", r, "contract", self.now(r), "retirement_invalid", contract_hash="contract")
        self.contract_of(p["contract"], p["tenant"])["retired"] = True

    def on_request(self, index, r):
        state = self.now(r)
        payload, s = self.open_envelope("submission", r, "submission", state, "submission_invalid", contract_hash="contract")
        need(r["execution_id"] == contract.execution_id(s), "submission_invalid")
        need(r["execution_id"] not in self.executions, "execution_known")
        need(self.epoch <= s["last_epoch"], "submission_expired")
        c = self.contract_of(s["contract"], s["tenant"])
        terms = c["terms"]
        need(self.epoch <= terms.get("expires_epoch", self.epoch), "contract_expired")
        need(not self.history.revoked(c["key"], c["epoch"], self.epoch), "contract_revoked")
        self.within(terms, c["size"], state)
        parents = [] if self.partial else [self.executions.get(bytes.fromhex(p)) for p in s.get("parents", [])]
        need(all(p and p.tenant == s["tenant"] and p.state == "complete" and p.outcome["kind"] == "ok" for p in parents), "parent")
        need(sum(p["kind"] == "node" for p in state.principals.values()) >= state.quorum, "quorum")
        eligible = state.eligible(terms.get("min_trust_level", 0), terms.get("node_labels", {}))
        need(len(eligible) >= terms["nodes"], "eligible")
        ranking = membership.rank(r["execution_id"], eligible)[:terms["max_assigned"]]
        ex = self.executions[r["execution_id"]] = Execution(
            id=r["execution_id"], tenant=s["tenant"], terms=terms, contract_hash=r["contract_hash"], submission=s,
            submission_digest=sha256(payload), requested=index, pinned=state, ranking=ranking,
            outputs=None if self.partial else [p.outcome["output_digest"] for p in parents], outcome=None)
        ex.schedule = membership.schedule_hash(ex.id, state.membership_hash(), ex.assigned(0))
        return ex

    def on_cancellation(self, index, r):
        _, p = self.open_envelope("cancellation", r, "submission", self.now(r), "cancellation_invalid", execution_id="execution")
        ex = self.executions.get(r["execution_id"])
        need(ex and ex.tenant == p["tenant"], "execution_unknown")
        self.find(ex.id, True).state = "cancelled"
        return ex

    def on_reschedule(self, index, r):
        ex = self.find(r["execution_id"], True)
        need(r["attempt"] == ex.attempt + 1, "attempt")
        need(ex.assigned(r["attempt"]) != ex.assigned(ex.attempt), "nobody_new")
        ex.attempt += 1
        return ex

    def on_expired(self, index, r):
        ex = self.find(r["execution_id"], True)
        need(ex.assigned(ex.attempt) == ex.ranking, "ranks_remain")
        ex.state = "expired"
        return ex

    def on_attestation(self, index, r):
        ex, node = self.find(r["execution_id"]), r["node"]
        self.now(r)
        need(node in ex.assigned(ex.attempt), "not_assigned")
        try:
            now = self.history.states[self.epoch].keys(node, "attestation")
            then = ex.pinned.keys(node, "attestation")
            payload, parsed = execution.open_attestation(r["envelope"], {k: v for k, v in now.items() if k in then})
        except Refused as error:
            raise Refused("attestation_invalid", str(error)) from None
        self.fits(ex, index, node, *parsed)
        _, x, i, digests = parsed
        opinion = (i["result_digest"], canonical(i["request_checkpoint"]))
        told = ex.votes.setdefault(node, [])
        need(len(told) < 2 and opinion not in [o for o, _, _ in told], "repeated")
        self.told = (opinion, sha256(payload), i)
        told.append(self.told)
        if ex.state == "open":
            ex.outputs = digests[2:]
        return ex

    def fits(self, ex, index, node, statement, x, i, digests):
        s = ex.submission
        external = {"cluster": self.cluster, "contract": ex.contract_hash.hex(), "input": s["input"], "tenant": ex.tenant,
                    "submission": ex.submission_digest.hex(), **({"parents": s["parents"]} if "parents" in s else {})}
        first = next(a for a in range(ex.attempt + 1) if node in ex.assigned(a))
        m, q = i["membership_checkpoint"], i["request_checkpoint"]
        origins = {state.logs["membership"]["origin"] for state in (ex.pinned, self.history.states[self.epoch])}
        need(x == external and statement["predicate"]["runDetails"]["metadata"]["invocationId"] == ex.id.hex()
             and digests == [ex.terms["module"], s["input"], *(digests[2:] if ex.outputs is None else ex.outputs)]
             and (i["attempt"], i["epoch"], i["node"]) == (first, ex.pinned.epoch, node)
             and i["cluster_schedule_hash"] == ex.schedule.hex() and i["membership_hash"] == ex.pinned.membership_hash().hex()
             and ("rewritten_module" in i) == (ex.terms["versions"]["rewriter"] >= 1)
             and contract.possible(i["outcome"], ex.terms)
             and q["origin"] == ex.pinned.logs["audit"]["origin"] and ex.requested < q["size"] <= index
             and m["origin"] in origins and ex.pinned.epoch <= m["size"] <= self.epoch
             and base64.b64decode(m["root_hash"]) == tree_root(self.leaves[:m["size"]]), "attestation_differs")

    def derived(self, kind, r):
        ex = self.find(r["execution_id"])
        need(not ex.recorded and DERIVED.get(ex.state) == kind, "not_derived")
        need(r == ex.derived, "differs")
        ex.recorded = True
        return ex

    def on_provenance(self, index, r):
        return self.derived("provenance", r)

    def on_divergence(self, index, r):
        return self.derived("divergence", r)
