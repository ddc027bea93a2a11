"""docs/formats/contract.md, and outcomes of docs/formats/execution.md."""

import re

from .base import Envelope, H, Refused, is_hex32, is_id, is_int, members, need, optional, parse_versioned, sha256

TYPE = "application/vnd.tallystick.%s.v1+json"
TEXT = re.compile(r"[ -~]{1,63}")
KINDS = {  # required members, optional members
    "contract": ("agreement capabilities cluster limits max_assigned module name nodes protocol_version seed step tenant"
                 " version versions", "argv environment expires_epoch min_trust_level node_labels"),
    "retirement": ("cluster contract protocol_version tenant", ""),
    "submission": ("cluster contract input last_epoch nonce protocol_version tenant", "parents"),
    "cancellation": ("cluster execution protocol_version tenant", ""),
}
LIMITS = ("diagnostics_bytes input_bytes memory_pages output_bytes", "frames gas")
OUTCOME = ("diagnostics_digest diagnostics_length kind output_digest output_length peak_pages",
           "exit_code gas memory_digest")
OUTCOMES = {"ok", "exit", "trap", "budget_exhausted", "stack_exhausted", "output_too_large"}
MAX_PAGES = 65536


def syntax(value, spec):
    """Members and their JSON types; every member whose value JSON alone can judge."""
    members(value, *spec)
    for name, v in value.items():
        if name in ("contract", "execution", "input", "module", "seed", "diagnostics_digest", "memory_digest", "output_digest"):
            ok = is_hex32(v)
        elif name in ("argv", "capabilities", "parents", "environment"):
            ok = isinstance(v, list) and (v or name == "capabilities")
            ok = ok and all(is_hex32(p) if name == "parents" else isinstance(p, list) and len(p) == 2 and
                            all(isinstance(t, str) for t in p) if name == "environment" else isinstance(p, str) for p in v)
        elif name == "nonce":
            ok = isinstance(v, str) and re.fullmatch("([0-9a-f]{2})*", v)
        elif name == "node_labels":
            ok = isinstance(v, dict) and v and all(isinstance(t, str) for t in v.values())
        elif name in ("limits", "versions"):
            syntax(v, LIMITS if name == "limits" else ("cost_table host_interface rewriter", ""))
            ok = True
        elif name in ("cluster", "kind", "name", "protocol_version", "tenant", "version"):
            ok = isinstance(v, str)
        else:  # an optional number is left out rather than written as 0, but gas in an outcome may be 0
            ok = is_int(v, 1 if name in spec[1].split() and spec != OUTCOME or name == "exit_code" else 0)
        need(ok, "syntax", name)


def check_contract(c):
    labels = c.get("node_labels", {})
    need(TEXT.fullmatch(c["version"]) and " " not in c["version"], "value", "version")
    need(c.get("min_trust_level", 0) <= 1000, "value", "min_trust_level")
    need(len(labels) <= 16 and all(TEXT.fullmatch(t) for kv in labels.items() for t in kv), "value", "node_labels")
    k, n, m, step = c["agreement"], c["nodes"], c["max_assigned"], c["step"]
    need(1 <= k <= n <= m <= 64 and 2 * k > n and (step >= 1 or m == n), "scheduling")
    granted = c["capabilities"]
    need("stdio" in granted and granted == sorted(set(granted)) and set(granted) <= {"args", "clock", "random", "stdio"},
         "capabilities")
    argv, env = c.get("argv", []), c.get("environment", [])
    names = [name for name, _ in env]
    texts = argv + [t for pair in env for t in pair]
    need(len(argv) <= 64 and len(env) <= 64 and len(set(names)) == len(names) and not any("\0" in t for t in texts)
         and all(re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name) for name in names)
         and argument_bytes(c) <= 16384, "arguments")
    versions, limits = c["versions"], c["limits"]
    metered = versions["rewriter"] >= 1
    need(("gas" in limits) == ("frames" in limits) == metered and versions["host_interface"] >= 1
         and (metered or versions["cost_table"] == 0), "metering")
    need(all(limit >= 1 for limit in limits.values()) and limits["memory_pages"] <= MAX_PAGES, "limits")


def argument_bytes(c):
    """The bytes of all arguments and of all names and values, without separators."""
    return sum(len(t.encode()) for t in c.get("argv", []) + [t for pair in c.get("environment", []) for t in pair])


def parse_payload(kind, payload):
    p = parse_versioned(payload)
    syntax(p, KINDS[kind])
    for name in ("cluster", "name", "tenant"):
        need(name not in p or is_id(p[name]), "identifier", name)
    if kind == "contract":
        check_contract(p)
    if kind == "submission":
        parents = p.get("parents", [])
        need(32 <= len(p["nonce"]) <= 64 and p["last_epoch"] >= 1, "value")
        need(len(parents) <= 8 and len(set(parents)) == len(parents), "parents")
    return p


def verify(kind, data, cluster, keys):
    """Payload bytes and value of an envelope; keys: tenant → {key id: public key}."""
    try:
        envelope = Envelope(data, TYPE % kind)
    except Refused as error:
        raise Refused("envelope", str(error)) from None
    p = parse_payload(kind, envelope.payload)
    need(p["cluster"] == cluster, "cluster", p["cluster"])
    need(len(envelope.signatures) == 1 and set(envelope.signatures) <= set(keys.get(p["tenant"], {})), "signer")
    try:
        envelope.verify(keys[p["tenant"]])
    except Refused as error:
        raise Refused("signature", str(error)) from None
    return envelope.payload, p


def execution_id(s):
    raw = bytes.fromhex
    return H("execution-id", s["protocol_version"], s["cluster"], s["tenant"], raw(s["contract"]), raw(s["input"]),
             [raw(p) for p in s.get("parents", [])], raw(s["nonce"]), s["last_epoch"])


def check_outcome(o):
    syntax(o, OUTCOME)
    kind = o["kind"]
    need(kind in OUTCOMES, "outcome", kind)
    need((kind == "exit") == ("exit_code" in o) and o.get("exit_code", 1) < 2**32, "outcome", "exit_code")
    need("gas" in o or kind not in ("budget_exhausted", "stack_exhausted"), "outcome", "gas")
    need(o["peak_pages"] <= MAX_PAGES, "outcome", "peak_pages")
    for name in ("output", "diagnostics"):
        need((o[name + "_length"] == 0) == (o[name + "_digest"] == sha256(b"").hex()), "outcome", name)


def result_digest(o):
    raw = bytes.fromhex
    memory = raw(o["memory_digest"]) if "memory_digest" in o else None
    return H("result", o["kind"], *optional(o.get("exit_code")), *optional(o.get("gas")), o["peak_pages"],
             o["output_length"], raw(o["output_digest"]), o["diagnostics_length"], raw(o["diagnostics_digest"]),
             *optional(memory))


def possible(o, c):
    """Whether an outcome can come of a contract."""
    limits = c["limits"]
    return (("gas" in o) == (c["versions"]["rewriter"] >= 1) and o.get("gas", 0) <= limits.get("gas", 0)
            and o["output_length"] <= limits["output_bytes"] and o["diagnostics_length"] <= limits["diagnostics_bytes"]
            and o["peak_pages"] <= limits["memory_pages"]
            and (o["kind"] != "output_too_large" or o["output_length"] == limits["output_bytes"]))
