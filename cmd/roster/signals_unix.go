//go:build unix

package main

import (
	"os"
	"syscall"
)

// upgradeSignals have the server hand over to its program started anew.
var upgradeSignals = []os.Signal{syscall.SIGUSR2}
