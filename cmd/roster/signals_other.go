//go:build !unix

package main

import "os"

// upgradeSignals: sockets cannot be handed over here.
var upgradeSignals []os.Signal
