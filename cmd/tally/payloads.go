package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/tallystick/tallystick/client"
	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/internal/digest"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
)

// payloadsAtOnce is how many payloads are fetched at a time: each read waits for
// its record in the audit log, which those of other reads share.
const payloadsAtOnce = 8

// A payloadReport is what log payloads --json prints.
type payloadReport struct {
	Folder     string           `json:"folder"`
	Size       int64            `json:"size"`       // of the audit log that was read
	Executions int              `json:"executions"` // complete ones, which a replay runs
	Payloads   int              `json:"payloads"`   // that they take
	Present    int              `json:"present"`    // that the folder had
	Fetched    int              `json:"fetched"`
	Erased     []wantedPayload  `json:"erased"`  // a record says so
	Missing    []missingPayload `json:"missing"` // and no record says why
}

// A wantedPayload is one that the replay of an execution takes.
type wantedPayload struct {
	Digest    digest.Digest `json:"digest"`
	Execution digest.Digest `json:"execution"` // the first that takes it
	// takers are the tenants that have executions which take it, each with the
	// first of them: every tenant has a copy of its own, and erases that.
	takers []taker
}

type taker struct {
	tenant    string
	execution digest.Digest
}

// An erasedFunc is [provenance.Fold.Erased].
type erasedFunc func(tenant string, payload digest.Digest) (index int64, ok bool)

// erased reports whether every tenant has erased its copy.
func (w wantedPayload) erased(erased erasedFunc) bool {
	return !slices.ContainsFunc(w.takers, func(t taker) bool {
		_, ok := erased(t.tenant, w.Digest)
		return !ok
	})
}

type missingPayload struct {
	wantedPayload
	Detail string `json:"detail"`
}

func logPayloadsCommand(a *app) *cobra.Command {
	var folder string
	cmd := &cobra.Command{
		Use:   "payloads",
		Short: "Save the payloads that a replay of the whole audit log takes, for auditors",
		Long: `Read the whole audit log up to its published checkpoint, and save what a replay of
its complete executions takes (modules, inputs, outputs of parents) in a folder,
each in a file named by its digest: what "verifier replay --all --blobs FOLDER"
reads. Every byte is held against the digest that the log has. What the folder
already has whole is not fetched again, so a run that was interrupted goes on, and a
later one adds what is new. It takes the profile of an auditor, and every payload
that is fetched is an operation in the audit log. The folder holds tenants' payloads
in clear, so keep it like them. Exit code 1 says that a payload is missing which
nobody erased.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, c, err := a.client()
			if err != nil {
				return err
			}
			bar := newProgress()
			r, err := savePayloads(cmd.Context(), p, c, folder, bar)
			bar.done()
			if err != nil {
				return err
			}
			if err := a.printer.value(r, func(w io.Writer) { printPayloads(w, r) }); err != nil {
				return err
			}
			if n := len(r.Missing); n > 0 {
				return withHint(fmt.Errorf("%d payloads are missing and no record says that they were erased", n), "run it again; if they stay away, the operator has to say where they are")
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&folder, "output", "o", "payloads", "folder to save them in")
	return cmd
}

// savePayloads brings a folder up to what the published audit log takes.
func savePayloads(ctx context.Context, p *profile, c *client.Client, folder string, bar *progress) (*payloadReport, error) {
	verified, err := published(ctx, p, c)
	if err != nil {
		return nil, err
	}
	tree := verified.Checkpoint.Tree()
	members, err := history(ctx, p, c)
	if err != nil {
		return nil, err
	}
	if err := checkSeesAll(p, members); err != nil {
		return nil, err
	}
	log, err := foldLog(ctx, c, members, tree, bar)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, err
	}
	r := &payloadReport{Folder: folder, Size: tree.N}
	wanted := r.wants(log.Fold)
	r.Payloads = len(wanted)
	return r, r.fetch(ctx, c, wanted, log.Fold.Erased, bar)
}

// wants returns what the replays of a log take, each payload once, in the order in
// which executions need them.
func (r *payloadReport) wants(fold *provenance.Fold) []wantedPayload {
	var complete []provenance.Execution
	for ex := range fold.Executions() {
		if ex.State == provenance.StateComplete {
			complete = append(complete, ex)
		}
	}
	slices.SortFunc(complete, func(a, b provenance.Execution) int { return cmp.Compare(a.RequestIndex, b.RequestIndex) })
	r.Executions = len(complete)
	at := map[digest.Digest]int{} // in list
	var list []wantedPayload
	for _, ex := range complete {
		for _, d := range ex.Payloads() {
			i, known := at[d]
			switch {
			case d == digest.Of(nil): // known to all
			case !known:
				at[d] = len(list)
				list = append(list, wantedPayload{d, ex.ID, []taker{{ex.Tenant, ex.ID}}})
			case !slices.ContainsFunc(list[i].takers, func(t taker) bool { return t.tenant == ex.Tenant }):
				list[i].takers = append(list[i].takers, taker{ex.Tenant, ex.ID})
			}
		}
	}
	return list
}

// fetch saves what the folder does not have.
func (r *payloadReport) fetch(ctx context.Context, c *client.Client, wanted []wantedPayload, erased erasedFunc, bar *progress) error {
	var mu sync.Mutex // guards r and bar
	group, working := errgroup.WithContext(ctx)
	group.SetLimit(payloadsAtOnce)
	for i, w := range wanted {
		if working.Err() != nil {
			break
		}
		group.Go(func() error {
			path := filepath.Join(r.Folder, w.Digest.String())
			present := hasPayload(path, w.Digest)
			var gone error
			if !present {
				data, err := getPayload(working, c, w)
				switch {
				case connect.CodeOf(err) == connect.CodeNotFound:
					gone = err
				case err != nil:
					return err
				default:
					if err := wiring.WriteFile(path, data, 0o600); err != nil {
						return fmt.Errorf("saving a payload: %w", err)
					}
				}
			}
			mu.Lock()
			defer mu.Unlock()
			switch {
			case present:
				r.Present++
			case gone == nil:
				r.Fetched++
			case w.erased(erased):
				r.Erased = append(r.Erased, w)
			default:
				r.Missing = append(r.Missing, missingPayload{w, gone.Error()})
			}
			bar.show(fmt.Sprintf("payload %d of %d", i+1, len(wanted)))
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	slices.SortFunc(r.Erased, func(a, b wantedPayload) int { return slices.Compare(a.Digest[:], b.Digest[:]) })
	slices.SortFunc(r.Missing, func(a, b missingPayload) int { return slices.Compare(a.Digest[:], b.Digest[:]) })
	return ctx.Err()
}

// hasPayload reports whether a file has the bytes of that digest. What an earlier
// run left, or anybody else, is not believed by its name.
func hasPayload(path string, d digest.Digest) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxInput+1))
	return err == nil && digest.Of(data) == d
}

// getPayload asks for a payload in the name of each tenant's execution that takes
// it, and holds it against its digest. The client bounds the answer.
func getPayload(ctx context.Context, c *client.Client, w wantedPayload) (data []byte, err error) {
	for _, t := range w.takers {
		var res *connect.Response[pb.GetBlobResponse]
		res, err = patiently(ctx, pause, func(ctx context.Context) (*connect.Response[pb.GetBlobResponse], error) {
			return c.Control.GetBlob(ctx, connect.NewRequest(&pb.GetBlobRequest{Digest: w.Digest.String(), ExecutionId: t.execution.String()}))
		})
		if err == nil {
			data = res.Msg.Data
		}
		if connect.CodeOf(err) != connect.CodeNotFound {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	if got := digest.Of(data); got != w.Digest {
		return nil, fmt.Errorf("payload %s: the server answered with other bytes: their digest is %s", w.Digest, got)
	}
	return data, nil
}

func printPayloads(w io.Writer, r *payloadReport) {
	fmt.Fprintf(w, "audit log       %d records, %d complete executions\n", r.Size, r.Executions)
	fmt.Fprintf(w, "payloads        %d: %d were there, %d fetched, %d erased, %d missing\n", r.Payloads, r.Present, r.Fetched, len(r.Erased), len(r.Missing))
	for _, m := range r.Missing {
		fmt.Fprintf(w, "  %s of execution %s: %s\n", m.Digest, m.Execution, m.Detail)
	}
	fmt.Fprintf(w, "folder          %s\n", r.Folder)
}
