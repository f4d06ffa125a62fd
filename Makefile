# make            this list
# make build      the binary, bin/roster
# make test       all tests; those that need a program which is missing skip
# make race       those of the packages under the race detector (needs a C compiler)
# make integration  the tests with real programs, all of which must be there
# make torture    the long forms of the tests that have one
# make bench      Go's benchmarks
# make bench-dns  roster beside NSD, Knot and BIND (Debian: nsd knot bind9 python3 gcc)
# make bench-churn  what registrations and heartbeats cost DNS
# make bench-transfer  what a transfer of a large zone takes, and costs queries
# make bench-size  what 1,000 to 1,000,000 instances take: memory, restart, registrations, expiry (15 minutes)
# make screenshots  the pictures of the page in docs/ (Debian: chromium fonts-inter fonts-jetbrains-mono)
# make fuzz       each fuzz target for FUZZTIME
# make lint       the linter
# make check      what to run before a commit: tidy, lint, test, race

GOLANGCI = go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
FUZZTIME = 1m
TORTURE = .

.PHONY: help build test race integration torture bench bench-dns bench-churn bench-transfer bench-size screenshots fuzz lint tidy check

help:
	@sed -n 's/^# make/make/p' Makefile

build:
	go build -o bin/roster ./cmd/roster

test:
	go test ./...

race:
	go test -race ./cmd/... ./dnsserver/... ./httpapi/... ./store/...

integration:
	ROSTER_REQUIRE_TOOLS=1 go test -count=1 ./integration/...

torture:
	ROSTER_TORTURE=1 go test -count=1 -timeout 2h -v -run "$(TORTURE)" ./store/... ./integration/...

bench:
	go test -run '^$$' -bench . -benchmem ./...

bench-dns: build
	python3 integration/bench/bench.py --roster bin/roster

bench-churn: build
	for d in reference crowd services hot; do python3 integration/bench/churn.py --roster bin/roster --data $$d || exit 1; done

bench-transfer: build
	python3 integration/bench/transfer.py --roster bin/roster

bench-size: build
	python3 integration/bench/size.py --roster bin/roster
	go test -run '^$$' -bench 'Register|Restart' ./store/bolt

screenshots:
	ROSTER_SCREENSHOTS=1 go test -count=1 -run TestScreenshots ./integration

fuzz:
	@for p in $$(go list ./...); do \
		for f in $$(go test -list '^Fuzz' $$p | grep '^Fuzz'); do \
			echo "$$p $$f" && go test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 100x $$p || exit 1; \
		done; \
	done

lint:
	$(GOLANGCI) run ./...

tidy:
	go mod tidy -diff

check: tidy lint test race
