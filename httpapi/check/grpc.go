package check

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// This file is the one call of the standard health service
// (grpc.health.v1.Health/Check), on HTTP/2 frames and a message of one field.
// The library for it, grpc-go, would add 9 MB to a binary of 13.

const (
	healthPath = "/grpc.health.v1.Health/Check"
	callStream = 1        // the only stream on the connection
	maxFrame   = 16 << 10 // octets; what we have settled for (RFC 9113 6.5.2)
	maxFields  = 16 << 10 // octets of header fields
	maxMessage = 1 << 10  // octets of the health service's reply
	serving    = 1
)

// servingStatus are the names of HealthCheckResponse.ServingStatus.
var servingStatus = [...]string{"UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"}

// askGRPC wants SERVING for the server as a whole, the service "".
func askGRPC(ctx context.Context, at netip.AddrPort) error {
	return converse(ctx, at, func(conn net.Conn, r *bufio.Reader) error {
		if err := sendCall(conn, at); err != nil {
			return err
		}
		reply, err := receiveReply(conn, r)
		if err != nil {
			return err
		}
		status, ok := parseHealth(reply)
		switch {
		case !ok:
			return errors.New("the health service's reply makes no sense")
		case status >= uint64(len(servingStatus)):
			return fmt.Errorf("the health service says status %d", status)
		case status != serving:
			return fmt.Errorf("the health service says %s", servingStatus[status])
		}
		return nil
	})
}

// sendCall sends all of our side in one write: the preface, empty settings, and
// the call with its message, a prefix of five octets and nothing.
func sendCall(conn net.Conn, at netip.AddrPort) error {
	var out, block bytes.Buffer
	out.WriteString(http2.ClientPreface)
	enc := hpack.NewEncoder(&block)
	for _, f := range []hpack.HeaderField{
		{Name: ":method", Value: "POST"},
		{Name: ":scheme", Value: "http"},
		{Name: ":path", Value: healthPath},
		{Name: ":authority", Value: at.String()},
		{Name: "content-type", Value: "application/grpc"},
		{Name: "user-agent", Value: "roster-check"},
		{Name: "te", Value: "trailers"},
	} {
		if err := enc.WriteField(f); err != nil {
			return err
		}
	}
	f := http2.NewFramer(&out, nil)
	err := errors.Join(
		f.WriteSettings(http2.Setting{ID: http2.SettingEnablePush, Val: 0}),
		f.WriteHeaders(http2.HeadersFrameParam{StreamID: callStream, BlockFragment: block.Bytes(), EndHeaders: true}),
		f.WriteData(callStream, true, make([]byte, 5)),
	)
	if err != nil {
		return err
	}
	_, err = conn.Write(out.Bytes())
	return err
}

// reply is what has come of the call.
type reply struct {
	message []byte
	fields  map[string]string // header and trailer
	ended   bool
}

// receiveReply reads to the end of the stream and returns the message.
func receiveReply(conn net.Conn, r *bufio.Reader) ([]byte, error) {
	f := http2.NewFramer(conn, r)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	f.MaxHeaderListSize = maxFields
	f.SetMaxReadFrameSize(maxFrame)
	got := reply{fields: map[string]string{}}
	for !got.ended {
		frame, err := f.ReadFrame()
		if err != nil {
			return nil, fmt.Errorf("read the answer: %w", err)
		}
		if err := got.take(f, frame); err != nil {
			return nil, err
		}
	}
	switch {
	case got.fields[":status"] != "200":
		return nil, fmt.Errorf("HTTP status %.10q", got.fields[":status"])
	case got.fields["grpc-status"] != "0":
		return nil, fmt.Errorf("grpc-status %.10q, %.100q", got.fields["grpc-status"], got.fields["grpc-message"])
	}
	return got.message, nil
}

// take takes in one frame, and answers those that want it.
func (got *reply) take(f *http2.Framer, frame http2.Frame) error {
	switch frame := frame.(type) {
	case *http2.SettingsFrame:
		if !frame.IsAck() {
			return f.WriteSettingsAck()
		}
	case *http2.PingFrame:
		if !frame.IsAck() {
			return f.WritePing(true, frame.Data)
		}
	case *http2.GoAwayFrame:
		if frame.ErrCode != http2.ErrCodeNo || frame.LastStreamID < callStream {
			return fmt.Errorf("the server hangs up: %v", frame.ErrCode)
		}
	case *http2.RSTStreamFrame:
		return fmt.Errorf("the server breaks off the call: %v", frame.ErrCode)
	case *http2.MetaHeadersFrame:
		if frame.StreamID == callStream {
			for _, h := range frame.Fields {
				got.fields[h.Name] = h.Value
			}
			got.ended = frame.StreamEnded()
		}
	case *http2.DataFrame:
		if frame.StreamID == callStream {
			if len(got.message)+len(frame.Data()) > maxMessage {
				return fmt.Errorf("the health service's reply is over %d octets", maxMessage)
			}
			got.message = append(got.message, frame.Data()...)
			got.ended = frame.StreamEnded()
		}
	}
	return nil
}

// parseHealth reads a HealthCheckResponse behind its prefix: not compressed,
// its length, and then its field 1, the status, 0 where it is left out. Other
// fields are skipped.
func parseHealth(b []byte) (status uint64, ok bool) {
	if len(b) < 5 || b[0] != 0 || binary.BigEndian.Uint32(b[1:]) != uint32(len(b)-5) {
		return 0, false
	}
	for b = b[5:]; len(b) > 0; {
		tag, n := binary.Uvarint(b)
		if n <= 0 {
			return 0, false
		}
		b = b[n:]
		value, size := uint64(0), uint64(0)
		switch tag & 7 { // the wire type
		case 0: // a varint
			v, n := binary.Uvarint(b)
			if n <= 0 {
				return 0, false
			}
			value, size = v, uint64(n)
		case 1:
			size = 8
		case 2: // a length, and so many octets
			l, n := binary.Uvarint(b)
			if n <= 0 || l > maxMessage {
				return 0, false
			}
			size = l + uint64(n)
		case 5:
			size = 4
		default:
			return 0, false
		}
		if size > uint64(len(b)) {
			return 0, false
		}
		if tag == 1<<3 {
			status = value
		}
		b = b[size:]
	}
	return status, true
}
