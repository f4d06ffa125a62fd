//go:build !race

package httpapi_test

// underRace: everything takes ten times as long.
const underRace = false
