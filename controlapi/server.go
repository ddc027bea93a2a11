package controlapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"sync"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpcreflect"

	"github.com/tallystick/tallystick/controlapi/orchestrator"
	rpc "github.com/tallystick/tallystick/proto/tallystick/v1/tallystickv1connect"
)

// The ways in which the edge itself cannot serve.
var (
	errStopping = &orchestrator.Error{
		Code:    orchestrator.CodeUnavailable,
		Message: "the control plane is stopping: try again",
	}
	errParked = errors.New("too many refusals of the principal wait for their record")
)

// maxFraming is what the protocols add to a message in a body: a prefix of five
// bytes, and for gRPC-Web and Connect streams nothing more in requests.
const maxFraming = 64

// writeTimeout is how long a client may take to accept one message of a stream.
const writeTimeout = 30 * time.Second

// Server is the API edge. New makes one.
type Server struct {
	cfg       Config
	log       *slog.Logger
	auth      *authenticator
	accounts  *accounts
	bodies    *budget
	collector *collector
	sessions  *sessions
	metrics   *metrics
	errors    *connect.ErrorWriter
	routes    *http.ServeMux

	stopping context.Context // ends when StopAndWait begins
	stop     context.CancelFunc

	mu      sync.Mutex
	stopped bool           // guarded by mu: no operation begins any more
	calls   sync.WaitGroup // operations under way; added to under mu
}

// New makes the edge and starts its collector. The caller serves it, and calls
// StopAndWait at the end.
func New(cfg Config) (*Server, error) {
	if err := cfg.ensureDefaults(); err != nil {
		return nil, err
	}
	metrics, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, fmt.Errorf("registering metrics: %w", err)
	}
	s := &Server{
		cfg:      cfg,
		log:      cfg.Logger,
		auth:     newAuthenticator(cfg.Cluster, cfg.Core, cfg.Now),
		accounts: &accounts{quotas: cfg.Quotas},
		bodies:   newBudget(cfg.BodyBudget),
		sessions: newSessions(),
		metrics:  metrics,
		errors:   connect.NewErrorWriter(),
	}
	s.stopping, s.stop = context.WithCancel(context.Background())
	s.collector = newCollector(cfg.Core, func(n int) { metrics.batchItems.Observe(float64(n)) })
	s.routes = s.newRoutes()
	return s, nil
}

// StopAndWait refuses new operations, ends the streams, waits for the
// operations under way and for their records, and ends the collector. Call it
// once, before the core is closed.
func (s *Server) StopAndWait() {
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
	s.stop()
	s.calls.Wait()
	s.collector.stopAndWait()
}

// begin counts an operation, unless the server is stopping.
func (s *Server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.stopped {
		s.calls.Add(1)
	}
	return !s.stopped
}

// ServeHTTP serves everything on the control plane's listener.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// Slow clients must not hold a connection for ever; streams lift this once
	// they have begun. Writers that know no deadlines are tests'.
	control := http.NewResponseController(w)
	now := time.Now()
	_ = control.SetReadDeadline(now.Add(s.cfg.Timeout))
	_ = control.SetWriteDeadline(now.Add(2 * s.cfg.Timeout))
	s.routes.ServeHTTP(w, r)
}

func (s *Server) newRoutes() *http.ServeMux {
	mux := http.NewServeMux()
	options := []connect.HandlerOption{
		connect.WithCodec(binaryCodec{}),
		connect.WithCodec(jsonCodec{"json"}),
		connect.WithCodec(jsonCodec{"json; charset=utf-8"}),
		connect.WithInterceptors(s),
		// Connect's one compression, for both directions: see checkEncoding.
		connect.WithCompression("gzip", nil, nil),
		connect.WithConditionalHandlerOptions(func(spec connect.Spec) []connect.HandlerOption {
			return []connect.HandlerOption{connect.WithReadMaxBytes(s.cfg.bound(methods[spec.Procedure]))}
		}),
	}
	services := grpcreflect.NewStaticReflector(
		rpc.ControlName, rpc.ProvenanceName, rpc.MembershipName, rpc.LogName, rpc.NodeName)
	mount := func(path string, h http.Handler) { mux.Handle(path, s.operations(h)) }
	mount(rpc.NewControlHandler(controlService{s}, options...))
	mount(rpc.NewProvenanceHandler(provenanceService{s}, options...))
	mount(rpc.NewMembershipHandler(membershipService{s}, options...))
	mount(rpc.NewLogHandler(logService{s}, options...))
	mount(rpc.NewNodeHandler(nodeService{s}, options...))
	mount(grpcreflect.NewHandlerV1(services, options...))
	mount(grpcreflect.NewHandlerV1Alpha(services, options...))
	s.publicRoutes(mux)
	return mux
}

// operations carries a request through everything that comes before and after
// its handler: see the package comment.
func (s *Server) operations(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m := methods[r.URL.Path]
		if m == nil {
			http.NotFound(w, r)
			return
		}
		if r.Method != http.MethodPost {
			w.Header().Set("Allow", http.MethodPost)
			http.Error(w, "call methods with POST", http.StatusMethodNotAllowed)
			return
		}
		if !s.begin() {
			s.writeError(w, r, wireError(errStopping))
			return
		}
		defer s.calls.Done()
		who, err := s.auth.authenticate(r.Header.Get("Authorization"))
		if err != nil {
			code := asRefusal(err).Code
			s.collector.unauthenticated(code)
			s.metrics.unauthenticated.WithLabelValues(string(code)).Inc()
			s.writeError(w, r, wireError(err))
			return
		}
		s.operate(w, r, next, &operation{
			method:  m,
			caller:  who,
			account: s.accounts.of(who.id, who.kind),
			start:   time.Now(),
			control: http.NewResponseController(w),
		})
	})
}

// operate carries one operation to its answer.
func (s *Server) operate(w http.ResponseWriter, r *http.Request, next http.Handler, op *operation) {
	out := &answer{ResponseWriter: w, server: s, request: r, op: op}
	defer s.observe(r, op)
	defer func() {
		fault := recover()
		if fault == nil || fault == http.ErrAbortHandler {
			return
		}
		s.log.Error("panic in a call", "method", op.method.name(), "panic", fmt.Sprint(fault), "stack", string(debug.Stack()))
		op.code = CodeInternal
		if out.begun {
			panic(http.ErrAbortHandler) // a part is out: the client must see that it is no whole
		}
		out.replace(fmt.Errorf("panic: %v", fault))
	}()
	if !op.method.allows(op.caller.kind) {
		out.replace(refuse(CodePermission, "a principal of kind %q may not call this method: use another principal's token", op.caller.kind))
		return
	}
	if err := s.accounts.enter(op.account, op.method.effect, s.cfg.Now()); err != nil {
		out.replace(err)
		return
	}
	defer op.account.leave(op.method.effect)
	if err := checkEncoding(r.Header); err != nil {
		out.replace(err)
		return
	}
	r = r.WithContext(context.WithValue(r.Context(), operationKey{}, op))
	body, err := s.newMeter(r, op)
	if err != nil {
		out.replace(err)
		return
	}
	defer body.close()
	if op.method.effect == streams {
		if isReflection(op.method) {
			body.most = maxReflection
		}
		_ = op.control.SetWriteDeadline(time.Time{})
		body.ended = func() { _ = op.control.SetReadDeadline(time.Time{}) }
	}
	r.Body = body
	next.ServeHTTP(out, r)
	out.begin()
}

// maxReflection bounds all requests of one reflection stream together.
const maxReflection = 1 << 20

func isReflection(m *method) bool {
	return m.procedure == reflection(grpcreflect.ReflectV1ServiceName) ||
		m.procedure == reflection(grpcreflect.ReflectV1AlphaServiceName)
}

// writeError answers in the protocol of the request.
func (s *Server) writeError(w http.ResponseWriter, r *http.Request, err error) {
	clear(w.Header())
	// The client may be gone; there is nobody else to tell.
	_ = s.errors.Write(w, r, err)
}

// observe tells metrics and log how an operation ended. The log names who
// called what, never what was sent.
func (s *Server) observe(r *http.Request, op *operation) {
	elapsed := time.Since(op.start)
	s.metrics.calls.WithLabelValues(op.method.name(), string(op.code)).Inc()
	if op.method.effect != streams {
		s.metrics.seconds.WithLabelValues(op.method.name()).Observe(elapsed.Seconds())
	}
	over := 0
	level := slog.LevelInfo
	switch {
	case op.parked:
		over, level = 1, slog.LevelDebug
	case op.code == codeOK:
		level = slog.LevelDebug
	}
	s.log.Log(r.Context(), level, "call", "method", op.method.name(), "principal", op.caller.id,
		"kind", op.caller.kind, "code", string(op.code), "elapsed", elapsed)
	if n := op.account.unlogged.add(over, s.cfg.Now()); n > 0 {
		s.log.Info("refusals over quota", "principal", op.caller.id, "kind", op.caller.kind, "count", n)
	}
}
