package controlapi

import (
	"net/http"
	"strconv"
)

// publicRoutes are for anybody: what the logs publish, and the page that asks
// the services with its user's token.
func (s *Server) publicRoutes(mux *http.ServeMux) {
	handle := func(pattern string, h http.Handler) {
		if h != nil {
			mux.Handle(pattern, h)
		}
	}
	if s.cfg.AuditTiles != nil {
		handle("/audit/", http.StripPrefix("/audit", s.cfg.AuditTiles))
	}
	if s.cfg.MembershipTiles != nil {
		handle("/membership/", http.StripPrefix("/membership", s.cfg.MembershipTiles))
	}
	handle("GET /genesis", document(s.cfg.Genesis, "application/json"))
	handle("GET /audit.policy", document(s.cfg.AuditPolicy, "text/plain; charset=utf-8"))
	handle("GET /membership.policy", document(s.cfg.MembershipPolicy, "text/plain; charset=utf-8"))
	handle("GET /healthz", http.HandlerFunc(s.health))
	handle("GET /metrics", s.cfg.Metrics)
	handle("/", s.cfg.Web)
}

// document serves bytes that may change only with a restart; nil for none.
func document(data []byte, contentType string) http.Handler {
	if len(data) == 0 {
		return nil
	}
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("Content-Type", contentType)
		h.Set("Content-Length", strconv.Itoa(len(data)))
		h.Set("Cache-Control", "no-cache")
		h.Set("X-Content-Type-Options", "nosniff")
		_, _ = w.Write(data)
	})
}

// health is for load balancers and scripts: 200, or 503 with the reason.
func (s *Server) health(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	if s.cfg.Health != nil {
		if err := s.cfg.Health(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte("ok\n"))
}
