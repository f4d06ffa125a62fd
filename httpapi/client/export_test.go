package client

import "time"

// UntilSafe returns how long it is until a moment on the server's clock.
func UntilSafe(at, now time.Time, date string) time.Duration { return untilSafe(at, now, date) }
