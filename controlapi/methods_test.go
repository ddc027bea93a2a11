package controlapi

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/tallystick/tallystick/controlapi/orchestrator"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	rpc "github.com/tallystick/tallystick/proto/tallystick/v1/tallystickv1connect"
)

// files are all files of the schema that define services.
var files = []protoreflect.FileDescriptor{
	pb.File_tallystick_v1_control_proto, pb.File_tallystick_v1_provenance_proto,
	pb.File_tallystick_v1_membership_proto, pb.File_tallystick_v1_log_proto,
}

// TestEveryMethodHasARow holds the table to the schema, both ways.
func TestEveryMethodHasARow(t *testing.T) {
	left := make(map[string]bool)
	for procedure := range methods {
		left[procedure] = true
	}
	for _, file := range files {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				rpc := service.Methods().Get(j)
				procedure := fmt.Sprintf("/%s/%s", service.FullName(), rpc.Name())
				row := methods[procedure]
				if row == nil {
					t.Errorf("%s has no row", procedure)
					continue
				}
				delete(left, procedure)
				if (row.effect == streams) != rpc.IsStreamingServer() || rpc.IsStreamingClient() {
					t.Errorf("%s: effect %q does not fit the schema", procedure, row.effect)
				}
				if len(row.kinds) == 0 || !slices.IsSorted(row.kinds) {
					t.Errorf("%s: kinds %q, want some, ascending", procedure, row.kinds)
				}
			}
		}
	}
	for procedure := range left {
		if !isReflection(methods[procedure]) {
			t.Errorf("%s is not in the schema", procedure)
		}
	}
}

// goodBodies are requests that succeed for whoever may make them. Those that
// are not here succeed with an empty message.
var goodBodies = map[string]string{
	"Control/RegisterContract":             `{"envelope":"YQ=="}`,
	"Control/RetireContract":               `{"envelope":"Yg=="}`,
	"Control/GetContract":                  `{"contractHash":"` + contractOne.String() + `"}`,
	"Control/SubmitExecutionRequest":       `{"submission":"Yw==","input":"aW4="}`,
	"Control/CancelExecution":              `{"envelope":"ZA=="}`,
	"Control/QueryExecutionStatus":         `{"executionId":"` + execution.String() + `"}`,
	"Control/WatchExecution":               `{"executionId":"` + execution.String() + `"}`,
	"Control/RetrieveExecutionProof":       `{"executionId":"` + execution.String() + `"}`,
	"Control/PutBlob":                      `{"data":"YQ=="}`,
	"Control/GetBlob":                      `{"digest":"ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"}`, // of "a"
	"Node/AbandonAssignment":               `{"executionId":"` + execution.String() + `","code":"stopped"}`,
	"Provenance/GetExecutionProvenance":    `{"executionId":"` + execution.String() + `"}`,
	"Provenance/VerifyProvenanceChain":     `{"executionId":"` + execution.String() + `"}`,
	"Provenance/RecordExecutionProvenance": `{"envelope":"ZQ=="}`,
	"Membership/ApplyChange":               `{"envelope":"Zg=="}`,
	"Membership/VerifyMembership":          `{"principal":"node-1"}`,
	"Log/GetCheckpoint":                    `{"log":"LOG_NAME_AUDIT"}`,
	"Log/GetInclusionProof":                `{"log":"LOG_NAME_AUDIT","index":"0"}`,
	"Log/GetConsistencyProof":              `{"log":"LOG_NAME_MEMBERSHIP","oldSize":1}`,
	"Log/GetTlogProof":                     `{"log":"LOG_NAME_AUDIT"}`,
}

// call makes a good request as principal.
func (w *world) call(principal string, m *method) reply {
	w.t.Helper()
	body := goodBodies[strings.TrimPrefix(m.procedure, "/tallystick.v1.")]
	if strings.HasSuffix(m.procedure, "RegisterTrustedNode") {
		body = fmt.Sprintf(`{"envelope":%q}`, base64.StdEncoding.EncodeToString(addNodeEnvelope(w.t, node)))
	}
	if body == "" {
		body = "{}"
	}
	if m.procedure == rpc.ControlGetBlobProcedure && members[principal] == auditor {
		body = strings.TrimSuffix(body, "}") + `,"executionId":"` + execution.String() + `"}`
	}
	if m.effect == streams {
		return w.postStream(principal, m.procedure, body)
	}
	return w.post(principal, m.procedure, body)
}

// ordered are the methods of our own services in a fixed order.
func ordered() []*method {
	var list []*method
	for _, m := range methods {
		if !isReflection(m) {
			list = append(list, m)
		}
	}
	slices.SortFunc(list, func(a, b *method) int { return strings.Compare(a.procedure, b.procedure) })
	return list
}

// TestAuthorisation calls every method as every kind of principal.
func TestAuthorisation(t *testing.T) {
	w := newWorld(t, nil)
	w.core.set(func() {
		w.core.coreErr = &orchestrator.Error{Code: orchestrator.CodeBusy, Message: "reached the core"}
	})
	mayCall := map[string]string{ // by hand, not from the table
		"Control/RegisterContract": "tenant", "Control/RetireContract": "tenant",
		"Control/GetContract": "auditor tenant", "Control/ListContracts": "auditor tenant",
		"Control/SubmitExecutionRequest": "tenant", "Control/CancelExecution": "tenant",
		"Control/QueryExecutionStatus": "auditor tenant", "Control/WatchExecution": "auditor tenant",
		"Control/RetrieveExecutionProof": "auditor tenant", "Control/ListExecutions": "auditor tenant",
		"Control/ListClusterNodes": "admin auditor tenant", "Control/GetClusterRoot": "admin auditor node tenant",
		"Control/PutBlob": "node tenant", "Control/GetBlob": "auditor node tenant",
		"Node/WatchAssignments": "node", "Node/AbandonAssignment": "node", "Node/ReportNodeStatus": "node",
		"Provenance/GetExecutionProvenance": "auditor tenant", "Provenance/VerifyProvenanceChain": "auditor tenant",
		"Provenance/RecordExecutionProvenance": "node",
		"Membership/RegisterTrustedNode":       "admin", "Membership/ApplyChange": "admin",
		"Membership/GetMembershipHash": "admin auditor node tenant", "Membership/VerifyMembership": "admin auditor node tenant",
		"Membership/ListChanges": "admin auditor node tenant",
		"Log/GetCheckpoint":      "admin auditor node tenant", "Log/GetInclusionProof": "admin auditor node tenant",
		"Log/GetConsistencyProof": "admin auditor node tenant", "Log/GetTlogProof": "admin auditor node tenant",
		"Log/ListRecords": "auditor tenant",
	}
	for _, m := range ordered() {
		name := strings.TrimPrefix(m.procedure, "/tallystick.v1.")
		for _, principal := range []string{"root", "eve", "node-1", "alice"} {
			kind := members[principal]
			want := CodePermission
			if slices.Contains(strings.Fields(mayCall[name]), kind) {
				want = orchestrator.CodeBusy
			}
			got := w.call(principal, m)
			if (name == "Control/ListClusterNodes" || name == "Node/ReportNodeStatus") && want == orchestrator.CodeBusy {
				want = "" // the core's method cannot fail
			}
			if got.code() != want {
				t.Errorf("%s as %s: %q, want %q (%s)", name, kind, got.code(), want, got.body)
			}
		}
		if got := w.post("", m.procedure, "{}").code(); got != CodeTokenMissing {
			t.Errorf("%s without token: %q", name, got)
		}
	}
}

// TestEveryOperationIsRecorded makes every call that may be made, successful
// ones and refusals, and looks for its record.
func TestEveryOperationIsRecorded(t *testing.T) {
	w := newWorld(t, nil)
	w.core.set(func() {
		w.core.blobs["alice/"+digestOfA] = []byte("a")
		w.core.blobs["assigned/"+digestOfA] = []byte("a")
		w.core.blobs["replayed/"+digestOfA] = []byte("a")
	})
	for _, m := range ordered() {
		for _, principal := range []string{"root", "eve", "node-1", "alice"} {
			before := len(w.core.recorded())
			if m.effect == streams {
				w.core.statuses <- nil
				w.core.work <- nil
			}
			got := w.call(principal, m).code()
			drain(w.core.statuses)
			drain(w.core.work)
			allowed := m.allows(members[principal])
			switch {
			case !allowed && got != CodePermission:
				t.Errorf("%s as %s: %q", m.name(), principal, got)
			case allowed && got != "" && m.name() != "tallystick.v1.Node/WatchAssignments":
				t.Errorf("%s as %s: %q, want success", m.name(), principal, got)
			}
			after := w.core.recorded()
			wantRecords := 1
			if allowed && (m.effect == appends || m.effect == heartbeats) {
				wantRecords = 0 // the core made it, or it is no operation
			}
			if len(after)-before != wantRecords {
				t.Errorf("%s as %s made %d records of the edge, want %d", m.name(), principal, len(after)-before, wantRecords)
			}
		}
	}
	for _, r := range w.core.recorded() {
		if op := r.GetOperation(); op != nil && r.GetActor().GetMethod() == "" {
			t.Errorf("record without method: %v", r)
		}
	}
}

const digestOfA = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"

func drain[M any](c chan M) {
	for {
		select {
		case <-c:
		default:
			return
		}
	}
}

// TestUnrecordedOperationsFail makes the same calls while nothing can be
// recorded. Only what the core has recorded by itself, and what is never
// recorded, may succeed.
func TestUnrecordedOperationsFail(t *testing.T) {
	w := newWorld(t, nil)
	w.core.set(func() { w.core.recordErr = fmt.Errorf("disk is full") })
	for _, m := range ordered() {
		for _, principal := range []string{"root", "eve", "node-1", "alice"} {
			got := w.call(principal, m)
			want := orchestrator.CodeUnavailable
			if (m.effect == appends || m.effect == heartbeats) && m.allows(members[principal]) {
				want = ""
			}
			if got.code() != want {
				t.Errorf("%s as %s: %q (%s), want %q", m.name(), principal, got.code(), got.body, want)
			}
			if strings.Contains(string(got.body), "disk is full") {
				t.Errorf("%s: the operator's error reached the client: %s", m.name(), got.body)
			}
		}
	}
}
