package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/netip"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/rosterdns/roster/httpapi"
	"github.com/rosterdns/roster/httpapi/client"
	"github.com/rosterdns/roster/store"
)

// exampleServer runs a server for an example.
func exampleServer() (url string, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	registry, err := store.Open(ctx, store.NewMemory(), store.Config{})
	if err != nil {
		log.Fatal(err)
	}
	quiet := logrus.New()
	quiet.SetOutput(io.Discard)
	s, err := httpapi.New(httpapi.Config{
		Registry: registry,
		Name:     func(i *store.Instance) string { return i.Label + "." + i.Service + ".service." },
		Log:      quiet,
	})
	if err != nil {
		log.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = s.Serve(ctx)
	}()
	return "http://" + s.Addr().String(), func() { cancel(); <-ended }
}

// A program that offers a service registers itself, and is out of DNS before it
// stops.
func ExampleKeeper() {
	server, stop := exampleServer()
	defer stop()

	k := &client.Keeper{
		Client: &client.Client{Servers: []string{server}},
		Registration: client.Registration{
			Service:   "web",
			ID:        "a1",
			Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.5")},
			Port:      8080,
			TTL:       15,
		},
	}
	// In a program: signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	ctx, terminate := context.WithCancel(context.Background())
	k.Report = func(i client.Instance, err error) {
		if err != nil {
			log.Print(err) // it goes on trying
			return
		}
		fmt.Println("registered as", i.DNSName)
		terminate()
	}
	if err := k.Run(ctx); err != nil { // until ctx is done
		fmt.Println(err)
	}
	if err := k.Drain(context.Background()); err != nil {
		fmt.Println(err)
	}
	fmt.Println("nobody comes any more: stop serving")
	// Output:
	// registered as a1.web.service.
	// nobody comes any more: stop serving
}

// Watch says how things are, and then what changes.
func ExampleClient_Watch() {
	server, stop := exampleServer()
	defer stop()
	c := &client.Client{Servers: []string{server}}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	for e, err := range c.Watch(ctx, "web") {
		switch {
		case err != nil:
			log.Print(err) // the connection was lost, and comes back
		case e.Kind == client.Reset:
			fmt.Println(len(e.Instances), "instances")
			_, _ = c.Register(ctx, client.Registration{Service: "web", ID: "a1", Port: 8080})
		default:
			fmt.Println(e.Kind, e.Instance.ID)
			return
		}
	}
	// Output:
	// 0 instances
	// register a1
}

// The zero Client asks the server on this host.
func ExampleClient_Instances() {
	server, stop := exampleServer()
	defer stop()
	c := &client.Client{Servers: []string{server}}
	ctx := context.Background()

	weight := uint16(20)
	if _, err := c.Register(ctx, client.Registration{Service: "web", ID: "a1", Port: 8080, Weight: &weight}); err != nil {
		fmt.Println(err)
	}
	list, err := c.Instances(ctx, "web", client.Query{Status: client.Up})
	if err != nil {
		fmt.Println(err)
	}
	for _, i := range list.Instances {
		fmt.Println(i.ID, i.Addresses, i.Port, i.Weight)
	}
	// Output:
	// a1 [127.0.0.1] 8080 20
}

// An error says what to change.
func ExampleError() {
	server, stop := exampleServer()
	defer stop()
	c := &client.Client{Servers: []string{server}}

	_, err := c.Register(context.Background(), client.Registration{Service: "web", ID: "a1", TTL: 100000})
	if e, ok := errors.AsType[*client.Error](err); ok {
		fmt.Println(e.Status, e.Field)
	}
	fmt.Println(err)
	_, err = c.Instance(context.Background(), "web", "a1")
	fmt.Println(errors.Is(err, client.ErrNotFound))
	// Output:
	// 400 ttl
	// register web/a1: ttl: 100000 is not allowed; allowed: a whole number from 1 to 86400 (400 Bad Request)
	// true
}
