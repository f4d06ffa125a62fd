package integration

import (
	"fmt"
	"hash/crc32"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/miekg/dns"
)

// TestScreenshots makes the pictures in docs/, where ROSTER_SCREENSHOTS=1 asks
// for them. They look best with the fonts Inter and JetBrains Mono.
func TestScreenshots(t *testing.T) {
	if os.Getenv("ROSTER_SCREENSHOTS") != "1" {
		t.Skip("ROSTER_SCREENSHOTS=1 makes the pictures in docs/ anew")
	}
	t.Parallel()
	browser := startBrowser(t)
	dir := t.TempDir()
	r := startRoster(t, dir)
	r.exhibit(t)
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.beat(t, stop)
	}()

	light := openPage(t, browser, r, desktop, "")
	dark := openPage(t, browser, r, desktop, "#/web")
	dark.dark(true)
	small := openPage(t, browser, r, phone, "#/checkout")
	lost := openPage(t, browser, r, desktop, "#/search", "net::ERR_")
	small.visible("#instances .id", "checkout-2")
	dark.visible("#instances .id", "web-3")
	dark.keys("i", kb.Home, kb.ArrowDown, kb.ArrowDown, kb.Enter)
	dark.visible("#panel-title", "web-3")
	for _, weight := range []int{40, 35, 30} { // something to tell of
		r.must(t, http.MethodPut, "/v1/services/cache/instances/cache-2/heartbeat", fmt.Sprintf(`{"weight":%d}`, weight))
		r.register(t, "web", "web-3", fmt.Sprintf(`{"addresses":["10.0.7.13","2001:db8::3"],"port":8080,"ports":{"metrics":9100},"weight":%d,"tags":["eu","v2"],"meta":{"build":"1403","commit":"9f3c2e1"}}`, weight))
	}
	r.must(t, http.MethodPut, "/v1/services/auth/instances/auth-2/heartbeat", `{"status":"down"}`)
	r.must(t, http.MethodPut, "/v1/services/auth/instances/auth-2/heartbeat", `{"status":"up"}`)
	if _, err := ask(r.dns, "checkout.service.", dns.TypeA); err != nil { // so that draining takes its time
		t.Fatal(err)
	}
	r.register(t, "mail", "mail-3", `{"address":"10.0.4.13","port":25,"tags":["eu"]}`)
	r.must(t, http.MethodPut, "/v1/services/search/instances/search-4/heartbeat", `{"status":"down"}`)
	r.must(t, http.MethodDelete, "/v1/services/checkout/instances/checkout-2?drain=true", "")
	r.must(t, http.MethodDelete, "/v1/services/billing/instances/billing-3", "")
	time.AfterFunc(5*time.Second, func() { close(stop) })
	<-done // leases of all lengths, some just renewed
	light.visible("#panel .events", "billing/billing-3")
	light.save("ui-list.png")
	dark.visible("#panel .events", "update")
	dark.save("ui-instance-dark.png")
	small.save("ui-phone.png")
	lost.keys("i", kb.Home, kb.ArrowDown)
	r.stop(t)
	lost.visible("#lost", "Connection lost.")
	lost.save("ui-lost.png")
	for _, p := range []*page{light, dark, small} {
		p.mu.Lock()
		p.troubles = nil // they saw the server go
		p.mu.Unlock()
	}
}

// exhibit registers a small company's services.
func (r *roster) exhibit(t *testing.T) {
	t.Helper()
	r.register(t, "api", "api-1", `{"address":"10.0.8.11","port":8080,"tags":["eu"],"check":{"type":"http","path":"/healthz","interval":60,"timeout":10}}`)
	for n, s := range []struct {
		name  string
		count int
		port  int
	}{{"auth", 3, 8443}, {"billing", 3, 9000}, {"cache", 4, 6379}, {"checkout", 5, 8080}, {"mail", 2, 25}, {"postgres", 3, 5432}, {"search", 6, 9200}, {"web", 8, 8080}} {
		for k := 1; k <= s.count; k++ {
			body := fmt.Sprintf(`{"address":"10.0.%d.%d","port":%d,"ttl":%d,"weight":%d,"tags":["%s","v%d"],"meta":{"build":"%d"}}`,
				n, 10+k, s.port, []int{15, 30, 20}[(n+k)%3], []int{10, 20, 10, 30}[(n*3+k)%4], []string{"eu", "us"}[k%2], 1+k%2, 1400+k)
			switch s.name {
			case "postgres":
				body = fmt.Sprintf(`{"address":"10.0.%d.%d","port":5432,"permanent":true,"priority":%d,"tags":["%s"]}`, n, 10+k, 10+10*min(k-1, 1), []string{"primary", "replica"}[min(k-1, 1)])
			case "web":
				body = fmt.Sprintf(`{"addresses":["10.0.%d.%d","2001:db8::%d"],"port":8080,"ports":{"metrics":9100},"priority":%d,"weight":%d,"tags":["eu","v2"],"meta":{"build":"1403","commit":"9f3c2e1"}}`,
					n, 10+k, k, 10+10*(k/7), []int{10, 20, 30}[k%3])
			}
			r.register(t, s.name, fmt.Sprintf("%s-%d", s.name, k), body)
		}
	}
}

// beat sends each instance's heartbeats, every third of its lease, each at its
// own time.
func (r *roster) beat(t *testing.T, stop chan struct{}) {
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		for key, i := range r.state(t) {
			m, _ := i.(map[string]any)
			if ttl, ok := m["ttl"].(float64); ok && (n+int(crc32.ChecksumIEEE([]byte(key))%1000))%int(ttl*4/3) == 0 {
				_, _, _ = r.call(http.MethodPut, fmt.Sprintf("/v1/services/%s/instances/%s/heartbeat", m["service"], m["id"]), "")
			}
		}
	}
}

func (p *page) save(name string) {
	p.Helper()
	shot, err := chromedp.Run(p.ctx, chromedp.CaptureScreenshot())
	if err != nil {
		p.Fatal(err)
	}
	if len(shot) > 300<<10 {
		p.Errorf("%s has %d octets", name, len(shot))
	}
	if err := os.WriteFile(filepath.Join("..", "docs", name), shot, 0o644); err != nil {
		p.Fatal(err)
	}
}
