package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// backupTime is how long a server may take to begin a backup.
const backupTime = 30 * time.Second

// Backup writes to w a copy of the store of the first server that gives one, as
// it is at one moment. It takes the rights read and register for all services.
// After an error, one of w among them, what w has got is no backup.
func (c *Client) Backup(ctx context.Context, w io.Writer) error {
	var cut error
	err := c.each(ctx, func(server *url.URL) error {
		began, err := c.backup(ctx, server, w)
		if began {
			cut = err // another server would begin anew
			return nil
		}
		return err
	})
	return errors.Join(err, cut)
}

// backup has one server write to w, and reports whether it began to.
func (c *Client) backup(ctx context.Context, server *url.URL, w io.Writer) (began bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	alarm := time.AfterFunc(backupTime, func() { cancel(errors.New("the server does not answer")) })
	defer alarm.Stop()
	resp, err := c.send(ctx, server, call{method: http.MethodGet, path: "/v1/backup"}, nil)
	if err != nil {
		return false, cause(ctx, err)
	}
	defer resp.Body.Close()
	alarm.Stop()
	from := &source{Reader: resp.Body}
	_, err = io.Copy(w, from)
	if from.err != nil {
		err = fmt.Errorf("the server %s cut it off: %w; try again", shown(server), from.err)
	}
	return true, err
}

// source keeps the error of a reader: what w could not take is not the server's
// fault.
type source struct {
	io.Reader
	err error
}

// Read implements [io.Reader].
func (s *source) Read(b []byte) (int, error) {
	n, err := s.Reader.Read(b)
	if !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}
