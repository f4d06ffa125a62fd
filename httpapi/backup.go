package httpapi

import (
	"io"
	"net/http"
	"time"
)

// backupPatience is how long the client of a backup may take for a part of it.
// Until it has all, the store's file grows with each change.
const backupPatience = 15 * time.Second

// backup is GET /v1/backup: the store's file as it is at one moment. It is for
// who may read and change everything: it has every service in it, and who takes
// it slowly makes the file grow. One at a time is given.
func (s *Server) backup(w http.ResponseWriter, r *http.Request) error {
	if err := takeQuery(r); err != nil {
		return err
	}
	if g := s.grant(r); !g.all() || !g.May(Register, "") {
		return problemf(http.StatusForbidden, "%s may not have a backup: it takes the rights read and register for all services", g.Name)
	}
	if s.cfg.Backup == nil {
		return problemf(http.StatusNotFound, "%s", s.cfg.NoBackup)
	}
	if !s.backingUp.TryLock() {
		return problemf(http.StatusServiceUnavailable, "another backup is being taken: try again when it is done")
	}
	defer s.backingUp.Unlock()
	if r.Method == http.MethodHead {
		w.Header().Set("Content-Type", backupType)
		return nil
	}
	out := &backupWriter{ResponseWriter: w, deadline: http.NewResponseController(w)}
	err := s.cfg.Backup(out)
	switch {
	case err == nil:
		return nil
	case !out.begun:
		return err
	}
	s.cfg.Log.WithError(err).Warn("a backup was cut off")
	panic(http.ErrAbortHandler) // so that the client knows that it is not whole
}

const backupType = "application/octet-stream"

// backupWriter puts the deadline off with each part that the client takes.
type backupWriter struct {
	http.ResponseWriter
	deadline *http.ResponseController
	begun    bool
}

var _ io.Writer = (*backupWriter)(nil)

// Write implements [io.Writer].
func (b *backupWriter) Write(p []byte) (int, error) {
	if !b.begun {
		b.begun = true
		b.Header().Set("Content-Type", backupType)
		b.Header().Set("Content-Disposition", `attachment; filename="roster.db"`)
	}
	if err := b.deadline.SetWriteDeadline(time.Now().Add(backupPatience)); err != nil {
		return 0, err
	}
	return b.ResponseWriter.Write(p)
}
