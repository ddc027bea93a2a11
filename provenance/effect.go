package provenance

import (
	"github.com/tallystick/tallystick/internal/digest"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

// Code is why a record is void. The set is closed, and a code never changes its
// meaning. The empty code means that the record is valid.
type Code string

// The codes, grouped by the records that they are about.
const (
	// Any record.
	CodeNoRecord     Code = "no_record"         // no record, or one without a body of the schema
	CodeIndex        Code = "index"             // not the next index of the log
	CodeOtherCluster Code = "other_cluster"     // names another cluster
	CodeNoEpoch      Code = "no_epoch"          // stands before the first epoch record
	CodeStaleEpoch   Code = "epoch_not_current" // states another epoch than the one in force

	// Epoch records.
	CodeEpochOrder   Code = "epoch_not_next" // not the epoch after the one in force
	CodeEpochUnknown Code = "epoch_unknown"  // the membership log has no such epoch
	CodeEpochDiffers Code = "epoch_differs"  // size, root or a hash is not the membership log's

	// Contract and retirement records.
	CodeContractKnown     Code = "contract_known"     // registered before
	CodeContractInvalid   Code = "contract_invalid"   // envelope, signature or content
	CodeRetirementInvalid Code = "retirement_invalid" // envelope, signature or content
	CodeContractUnknown   Code = "contract_unknown"   // no such contract of the tenant
	CodeContractRetired   Code = "contract_retired"   // withdrawn before

	// Request and cancellation records.
	CodeExecutionKnown      Code = "execution_known"      // requested before
	CodeSubmissionInvalid   Code = "submission_invalid"   // envelope, signature or content
	CodeSubmissionExpired   Code = "submission_expired"   // the epoch is beyond last_epoch
	CodeContractExpired     Code = "contract_expired"     // the epoch is beyond expires_epoch
	CodeContractRevoked     Code = "contract_revoked"     // the key that signed the contract was revoked
	CodeContractLimits      Code = "contract_limits"      // asks for more than the cluster's limits
	CodeParent              Code = "parent"               // a parent is unknown, another tenant's, not complete, or not ok
	CodeQuorum              Code = "quorum"               // fewer member nodes than the cluster's quorum
	CodeEligible            Code = "eligible"             // fewer eligible nodes than the contract asks for
	CodeCancellationInvalid Code = "cancellation_invalid" // envelope, signature or content

	// Records about an execution.
	CodeExecutionUnknown Code = "execution_unknown" // no such execution
	CodeDecided          Code = "execution_decided" // the execution is not open any more
	CodeAttempt          Code = "attempt"           // not the next attempt
	CodeNobodyNew        Code = "nobody_new"        // the next attempt assigns no further node
	CodeRanksRemain      Code = "ranks_remain"      // a later attempt would assign a further node

	// Attestation records.
	CodeAttestationInvalid Code = "attestation_invalid" // envelope, signature or statement
	CodeAttestationDiffers Code = "attestation_differs" // the statement does not fit the execution
	CodeNotAssigned        Code = "not_assigned"        // no attempt so far assigned the node
	CodeRepeated           Code = "repeated"            // the node has said so before, or is void already

	// Divergence and provenance records.
	CodeNotDerived Code = "not_derived" // the fold has derived no such record, or it was recorded before
	CodeDiffers    Code = "differs"     // differs from what the fold derived
)

// State is where an execution stands. The first state other than StateOpen is
// final.
type State string

// The states of an execution.
const (
	StateOpen      State = "open"
	StateComplete  State = "complete"
	StateDiverged  State = "diverged"
	StateCancelled State = "cancelled"
	StateExpired   State = "expired"
)

// An Effect is what a record does to the state of the fold.
type Effect struct {
	// Void says that the record changes nothing, and Code why. Detail says it
	// for people; what it quotes of strangers is made printable.
	Void   bool
	Code   Code
	Detail string

	// Execution is the execution that the record is about, nil when it is about
	// none or the execution is unknown.
	Execution *digest.Digest
	// Before and After are the execution's states around the record; Before is
	// empty for its request. They are equal when it stays where it was. Check
	// leaves After empty.
	Before, After State
	// Evidence says that the record is valid and came after the execution was
	// decided: it is kept, and neither state nor chain depends on it.
	Evidence bool
	// Derived is the record that the writer of the log should append next, with
	// its header filled except for the time: the provenance or divergence record
	// of an execution that this record decided. Nil otherwise.
	Derived *pb.Record
}
