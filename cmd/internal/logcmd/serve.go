package logcmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/tallystick/tallystick/cmd/internal/control"
	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/logserver"
)

// serve runs a log until ctx ends. One that could only be opened to be read,
// because the disk is full, is opened anew when there is room, at the same
// address. Keys and passphrase are read once: that may be from a pipe.
func serve(ctx context.Context, config serveConfig, stderr io.Writer) error {
	s := service{config: config, hangup: make(chan os.Signal, 1), stderr: stderr}
	if config.policy != "" {
		// From before the policy is read until the end, also between two openings:
		// where nobody waits for it a hangup ends the process, or is missed.
		signal.Notify(s.hangup, syscall.SIGHUP)
		defer signal.Stop(s.hangup)
	}
	var err error
	if s.options, err = config.options(wiring.Logger(stderr, config.verbose), stderr); err != nil {
		return err
	}
	for {
		address, err := s.serveLog(ctx)
		if err != nil || address == "" {
			return err
		}
		s.config.listen = address
	}
}

// service is what one run of serve keeps between two openings of its log. Only the
// goroutine of serve changes it.
type service struct {
	config  serveConfig       // its address is the one listened on before, if there was one
	options logserver.Options // with the policy that was taken last
	hangup  chan os.Signal    // holds one for which the policy is to be read again
	stderr  io.Writer
}

// serveLog runs a log until ctx ends, or until it has to be opened anew: then it
// returns the address that it listened on.
func (s *service) serveLog(ctx context.Context) (address string, err error) {
	config, stderr := s.config, s.stderr
	log, err := logserver.Open(s.options)
	if err != nil {
		return "", err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		err = errors.Join(err, log.Close(closing))
	}()
	logger, readOnly := s.options.Logger, log.Reopen() != nil
	// A rotation that was interrupted leaves key files under their old names.
	if !readOnly {
		if err := config.dir.settleKeys(log.Keys()); err != nil {
			return "", err
		}
	}
	answering := &control.Server{Log: log, Files: config.dir.files, Rotate: func(r control.RotateRequest) ([]logserver.KeyInfo, error) {
		return rotateKey(log, &config.dir, r)
	}}
	stopAnswering, err := answering.Start(s.options.Dir, logger)
	if err != nil {
		return "", err
	}
	defer stopAnswering()
	switch {
	case config.export == "":
	case readOnly: // there may be no room for the copy either, and nothing new to copy
		logger.Warn("the copy is not brought up to date before the log is opened for writing", "target", config.export)
	default:
		stop, exportErr := keepCopy(log, config, logger)
		if exportErr != nil {
			return "", exportErr
		}
		defer func() { err = errors.Join(err, stop()) }()
	}
	if config.policy != "" {
		reload := &reloading{file: config.policy, hangup: s.hangup, set: log.SetPolicy, logger: logger}
		reload.start()
		defer func() {
			if policy := reload.stop(); policy != nil {
				s.options.Policy = policy
			}
		}()
	}
	ln, err := listen(config, readOnly, logger, stderr)
	if err != nil {
		return "", err
	}
	address = config.listen
	if _, port, _ := net.SplitHostPort(address); port == "0" {
		address = ln.Addr().String()
	}
	again, err := answer(ctx, log.Reopen(), logger, func(ctx context.Context) error {
		return logserver.Serve(ctx, ln, logserver.Handler(log), logger)
	})
	if !again {
		address = ""
	}
	return address, err
}

// listen listens and tells where. On a full disk that need not be in a file.
func listen(config serveConfig, readOnly bool, logger *slog.Logger, stderr io.Writer) (net.Listener, error) {
	if !readOnly || config.addrFile == "" {
		return wiring.Listen(config.listen, config.addrFile, stderr)
	}
	ln, err := wiring.Listen(config.listen, "", io.Discard)
	if err != nil {
		return nil, err
	}
	if err := wiring.WriteFile(config.addrFile, []byte(ln.Addr().String()+"\n"), 0o644); err != nil {
		logger.Warn("the file with the address is not written before the log is opened for writing", "file", config.addrFile, "err", err)
	}
	fmt.Fprintf(stderr, "listening addr=%s\n", ln.Addr()) // after the file, as Listen does
	return ln, nil
}

// answer serves until ctx ends, or until reopen is closed: then the log is to be
// opened again, whether or not clients have taken their answers.
func answer(ctx context.Context, reopen <-chan struct{}, logger *slog.Logger, serve func(context.Context) error) (again bool, err error) {
	serving, stop := context.WithCancel(ctx)
	defer stop()
	decided := make(chan bool, 1)
	go func() {
		select {
		case <-reopen:
			logger.Info("disk has room again: opening the log for writing")
			decided <- true
			stop()
		case <-serving.Done():
			decided <- false
		}
	}()
	err = serve(serving)
	stop()
	if again = <-decided && ctx.Err() == nil; again && err != nil {
		logger.Warn("connections were cut off to open the log again", "err", err)
		err = nil
	}
	return again, err
}
