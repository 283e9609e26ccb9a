// The control plane of a cluster without nodes: etcd and kube-apiserver in one
// process, for the tests of the chart.
package main

import (
	"fmt"
	"net/url"
	"os"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() {
	if err := etcd(os.Getenv("ETCD_FOLDER"), os.Getenv("ETCD_ADDRESS"), os.Getenv("ETCD_PEER_ADDRESS")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(cli.Run(app.NewAPIServerCommand()))
}

func etcd(folder, address, peer string) error {
	if folder == "" {
		return nil
	}
	config := embed.NewConfig()
	config.Dir = folder
	config.LogLevel = "error"
	config.UnsafeNoFsync = true
	client, err := url.Parse("http://" + address)
	if err != nil {
		return err
	}
	other, err := url.Parse("http://" + peer)
	if err != nil {
		return err
	}
	config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{*client}, []url.URL{*client}
	config.ListenPeerUrls, config.AdvertisePeerUrls = []url.URL{*other}, []url.URL{*other}
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	server, err := embed.StartEtcd(config)
	if err != nil {
		return err
	}
	select {
	case <-server.Server.ReadyNotify():
		return nil
	case <-time.After(time.Minute):
		return fmt.Errorf("etcd does not begin")
	}
}
