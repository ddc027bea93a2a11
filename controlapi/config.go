package controlapi

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tallystick/tallystick/controlapi/orchestrator"
)

// The values that zero fields of a Config stand for.
const (
	// DefaultMaxPayload is the one of the core, which refuses contracts whose
	// outputs would be larger.
	DefaultMaxPayload = orchestrator.DefaultMaxPayload
	// DefaultTimeout leaves a call that waits for witnesses several checkpoint
	// rounds.
	DefaultTimeout = 60 * time.Second
	// DefaultKeepAlive is well below the idle timeouts of usual proxies.
	DefaultKeepAlive = 15 * time.Second
	// DefaultBodyBudget fits a dozen of the largest requests. While one is
	// decoded, encrypted and stored it takes a few times its length.
	DefaultBodyBudget = 256 << 20
)

// Config is what a Server is made of. Zero fields mean what their comments say.
type Config struct {
	Cluster string // the cluster's id, which tokens name; required
	Core    Core   // required

	Quotas     Quotas        // zero fields mean those of DefaultQuotas
	MaxPayload int           // largest module, input or blob in bytes, that of the core's Config; 0 means DefaultMaxPayload
	BodyBudget int64         // bytes of request bodies in memory at the same time, a principal's at most half; 0 means DefaultBodyBudget
	Timeout    time.Duration // of a call that is no stream; 0 means DefaultTimeout
	KeepAlive  time.Duration // between messages to an idle node; 0 means DefaultKeepAlive

	// What is served beside the services, to anybody. A nil or empty field
	// leaves its path out.

	AuditTiles       http.Handler // under /audit/, which is stripped
	MembershipTiles  http.Handler // under /membership/, which is stripped
	Genesis          []byte       // the genesis envelope, at /genesis
	AuditPolicy      []byte       // at /audit.policy: a suggestion that clients must not trust
	MembershipPolicy []byte       // at /membership.policy: likewise
	Web              http.Handler // everything else
	Health           func() error // at /healthz; nil is always healthy
	Metrics          http.Handler // at /metrics

	Registerer prometheus.Registerer // nil registers no metrics
	Logger     *slog.Logger          // nil discards
	Now        func() time.Time      // nil means time.Now
}

func (c *Config) ensureDefaults() error {
	if c.Cluster == "" || c.Core == nil {
		return errors.New("controlapi: Config needs Cluster and Core")
	}
	c.Quotas.ensureDefaults()
	if c.MaxPayload <= 0 {
		c.MaxPayload = DefaultMaxPayload
	}
	if c.BodyBudget <= 0 {
		c.BodyBudget = DefaultBodyBudget
	}
	if least := 2 * int64(c.bound(&method{size: payloadRequest})+maxFraming); c.BodyBudget < least {
		return fmt.Errorf("controlapi: Config.BodyBudget is %d, want at least %d: half of it must hold a request with a payload of %d",
			c.BodyBudget, least, c.MaxPayload)
	}
	if c.Timeout <= 0 {
		c.Timeout = DefaultTimeout
	}
	if c.KeepAlive <= 0 {
		c.KeepAlive = DefaultKeepAlive
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return nil
}

// bound returns the largest request message of m in bytes: base64 makes a
// payload in JSON a third longer.
func (c *Config) bound(m *method) int {
	if m.size == payloadRequest {
		return c.MaxPayload/3*4 + int(envelopeRequest)
	}
	return int(m.size)
}
