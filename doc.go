// Package tallystick is a transparency log and control plane for
// deterministic execution; see README.md. The module's packages are listed in
// docs/architecture.md; this one only holds the tests of their borders.
package tallystick
