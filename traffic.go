package main

import (
	"fmt"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
)

func (p *program) getTrafficCommand() *cobra.Command {
	var (
		c                         connection
		out                       = output{wide: true}
		service, fromZone, toZone string
	)
	cmd := &cobra.Command{
		Use: "traffic", Short: "Show what was sent in a mesh lately, from which zone to which", Args: cobra.NoArgs,
		Long: `traffic shows what proxies sent in the last minute: to which port of a service, from the proxies of which zone to the
endpoints of which zone, and at which step of failover (0 comes first).

A zone shows what its own proxies sent, global that of all zones.

Bytes with a ~ are estimates: a proxy sent to several zones at a time, and counts bytes per service only.`,
		Example: `  causeway get traffic
  causeway get traffic -m shop --service backend
  causeway get traffic --from-zone east -o json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := out.check(p); err != nil {
				return err
			}
			cl, err := c.dial(p)
			if err != nil {
				return err
			}
			q := url.Values{}
			for k, v := range map[string]string{"service": service, "fromZone": fromZone, "toZone": toZone} {
				if v != "" {
					q.Set(k, v)
				}
			}
			report, err := cl.Traffic(cmd.Context(), c.Mesh, q)
			if err != nil {
				return err
			}
			if len(report.Items) == 0 && (out.format == "table" || out.format == "wide") {
				p.talk("no traffic in mesh %s in the last minute", c.Mesh)
				return nil
			}
			return out.values(p, trafficTable(report, out.format == "wide"), report)
		},
	}
	c.flags(cmd)
	c.meshFlag(cmd)
	out.flags(cmd)
	cmd.Flags().StringVar(&service, "service", "", "only to this service, by name or KRI")
	cmd.Flags().StringVar(&fromZone, "from-zone", "", "only from the proxies of this zone")
	cmd.Flags().StringVar(&toZone, "to-zone", "", "only to the endpoints of this zone")
	return cmd
}

func trafficTable(report mesh.TrafficReport, wide bool) table {
	t := table{header: []string{"SERVICE", "PORT", "FROM", "TO", "PRIORITY", "REQUESTS/S", "ERRORS/S", "IN PROGRESS", "SENT", "RECEIVED"}}
	if wide {
		t.header = append(t.header, "REQUESTS", "ERRORS", "CONNECTIONS", "FAILED", "SECONDS", "KRI")
	}
	for _, i := range report.Items {
		kri, err := resource.ParseKRI(i.Service)
		if err != nil {
			kri = resource.KRI{Name: i.Service}
		}
		from := i.FromZone
		if i.Stale {
			from += " (not connected)"
		}
		cells := []string{
			kri.Name, kri.Section, from, i.ToZone, fmt.Sprint(i.Priority), fmt.Sprintf("%.2f", i.RequestsPerSecond),
			fmt.Sprintf("%.2f", i.ErrorsPerSecond), fmt.Sprint(i.InProgress), bytesOf(i, i.BytesSent), bytesOf(i, i.BytesReceived),
		}
		if wide {
			cells = append(cells, fmt.Sprint(i.Requests), fmt.Sprint(i.Errors), fmt.Sprint(i.Connections), fmt.Sprint(i.FailedConnections),
				fmt.Sprintf("%.0f", i.Seconds), i.Service)
		}
		t.add(i.Service, cells...)
	}
	return t
}

// bytesOf marks estimates.
func bytesOf(i mesh.Traffic, n uint64) string {
	if i.BytesShared {
		return "~" + size(n)
	}
	return size(n)
}

// size shows bytes with the unit that leaves the fewest digits.
func size(n uint64) string {
	f, units := float64(n), []string{"B", "KiB", "MiB", "GiB", "TiB"}
	for f >= 1024 && len(units) > 1 {
		f, units = f/1024, units[1:]
	}
	if units[0] == "B" {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", f, units[0])
}
