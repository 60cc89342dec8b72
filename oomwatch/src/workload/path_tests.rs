//! Paths as the kernel has them, from real hosts of every engine, and paths made to mislead.

use super::*;

/// What a row of the table says: engine, container's id, pod's uid, unit, and the depths of the
/// container's and the pod's cgroup.
type Row = (&'static str, Option<Engine>, &'static str, &'static str, &'static str, usize, usize);

const DOCKER: Option<Engine> = Some(Engine::Docker);
const CONTAINERD: Option<Engine> = Some(Engine::Containerd);
const PODMAN: Option<Engine> = Some(Engine::Podman);
const CRIO: Option<Engine> = Some(Engine::Crio);
const KUBERNETES: Option<Engine> = Some(Engine::Kubernetes);
const NONE: Option<Engine> = Some(Engine::None);

/// Where each row comes from: [run] seen on a machine with the engine running for these tests;
/// [seen] copied from a public log, test or issue; [made] built by the engine's documented or
/// source-level rule. Empty text and 0 stand for absent.
#[rustfmt::skip]
const TABLE: &[Row] = &[
    // docker: [run], [seen], [seen] systemd driver, [made] --cgroup-parent=my.slice, [made] nested slice
    ("/docker/f58243f83a80f4b20c568393a3745828c2a3192bbbb4a92898b5d200f6aca041", DOCKER, "f58243f83a80f4b20c568393a3745828c2a3192bbbb4a92898b5d200f6aca041", "", "", 2, 0),
    ("/docker/31cb02944da7a12196a193cf0e0f6c226d7c453a1db62e65ba98287593a2ee30", DOCKER, "31cb02944da7a12196a193cf0e0f6c226d7c453a1db62e65ba98287593a2ee30", "", "", 2, 0),
    ("/system.slice/docker-9ec39b91f3d70e1beff50a308f77067065ea6be0d91a3378375056cd4422cf3d.scope", DOCKER, "9ec39b91f3d70e1beff50a308f77067065ea6be0d91a3378375056cd4422cf3d", "", "docker-9ec39b91f3d70e1beff50a308f77067065ea6be0d91a3378375056cd4422cf3d.scope", 2, 0),
    ("/my.slice/docker-9ec39b91f3d70e1beff50a308f77067065ea6be0d91a3378375056cd4422cf3d.scope", DOCKER, "9ec39b91f3d70e1beff50a308f77067065ea6be0d91a3378375056cd4422cf3d", "", "docker-9ec39b91f3d70e1beff50a308f77067065ea6be0d91a3378375056cd4422cf3d.scope", 2, 0),
    ("/nomad.slice/nomad-share.slice/docker-9ec39b91f3d70e1beff50a308f77067065ea6be0d91a3378375056cd4422cf3d.scope", DOCKER, "9ec39b91f3d70e1beff50a308f77067065ea6be0d91a3378375056cd4422cf3d", "", "docker-9ec39b91f3d70e1beff50a308f77067065ea6be0d91a3378375056cd4422cf3d.scope", 3, 0),
    // docker by the ECS agent [seen x3]
    ("/ecs/628967a1-46b4-4a8a-84ff-605128f4679e/3c94e08259a6235781bb65f3dec91150c92e9d414ecc410d6245687392d3900f", DOCKER, "3c94e08259a6235781bb65f3dec91150c92e9d414ecc410d6245687392d3900f", "", "", 3, 0),
    ("/ecs/haissam-ecs-classic/5a0d5ceddf6c44c1928d367a815d890f/38fac3e99302b3622be089dd41e7ccf38aff368a86cc339972075136ee2710ce", DOCKER, "38fac3e99302b3622be089dd41e7ccf38aff368a86cc339972075136ee2710ce", "", "", 4, 0),
    ("/ecs/409b8b89ccd746bdb9b5e03418406d96/409b8b89ccd746bdb9b5e03418406d96-3057940393/kubepods/besteffort/podc00eb3e2-d6c0-4eb6-9e58-fe539629263f/7022ec9d5774c69f38feddd6460373c4681ef72a4e03bc6f2d374387e9bde981", KUBERNETES, "7022ec9d5774c69f38feddd6460373c4681ef72a4e03bc6f2d374387e9bde981", "c00eb3e2-d6c0-4eb6-9e58-fe539629263f", "", 7, 6),
    // docker with --cgroup-parent /wl-par/a under cgroupfs [run]: an unknown parent, so the disk has to say
    ("/wl-par/a/6a078dd669574bdc3d0ee4661b02cfab67fbfa6f31cabd1624baf67524a2a9e2", NONE, "", "", "", 0, 0),
    // docker in docker, and the kubelet of a kind or minikube node in a docker container: the outer one [seen, seen, made, made]
    ("/docker/a9a5ad238e59234193ee7ec3fcff5e735b3708ea1068826952255b69e3cfa413/docker/ec08435e04266c5ba381fccbb829f626d11d8ddf5f8f547263c7a2d79ab4787a", DOCKER, "a9a5ad238e59234193ee7ec3fcff5e735b3708ea1068826952255b69e3cfa413", "", "", 2, 0),
    ("/docker/d6701ec289c56e4391acb11d07474b3139466857a305490575508a8b7a9fcf22/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod2ca4a155_3599_498d_bb9d_4446693fa3ea.slice/crio-0ba8ac17e4e7a31fb82279503552fe94e64bab4745bf6fd2ff231e7c8ca8bed0.scope", DOCKER, "d6701ec289c56e4391acb11d07474b3139466857a305490575508a8b7a9fcf22", "", "", 2, 0),
    ("/system.slice/docker-89ac90181a86fdea23d87ab993ceb698aa61528123c23135ef43fe5246a1b11e.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-podb1e89a2fcc688644de3eb95aee8025ce.slice/cri-containerd-ee3fc60554cd9eefdd745a10dda84e041a7883c0381d067e76185d342de64759.scope", DOCKER, "89ac90181a86fdea23d87ab993ceb698aa61528123c23135ef43fe5246a1b11e", "", "docker-89ac90181a86fdea23d87ab993ceb698aa61528123c23135ef43fe5246a1b11e.scope", 2, 0),
    ("/docker/d6701ec289c56e4391acb11d07474b3139466857a305490575508a8b7a9fcf22/kubelet/kubepods/besteffort/pod74ba62da-1a3d-11e7-bb11-080027cb0e22/cb1eadb7abe3a6545e9856411207073277838e1bdc003337c2f8685faeedc32c", DOCKER, "d6701ec289c56e4391acb11d07474b3139466857a305490575508a8b7a9fcf22", "", "", 2, 0),

    // podman: cgroupfs [run], in a pod [run], systemd [seen], crun's child [seen], its conmon [seen], pod [seen], pod's conmon [made]
    ("/libpod_parent/libpod-dd75781a616bf917043e9de7ebd91fc7cf8e1566d022c596b74b7b36dfc62644", PODMAN, "dd75781a616bf917043e9de7ebd91fc7cf8e1566d022c596b74b7b36dfc62644", "", "", 2, 0),
    ("/libpod_parent/419e7c15d0ecd1c482b449c6805768fc33c7497b2dbbaabce07fc2e08e97b145/libpod-ec50f0ed8439974c89f9eaa1b32cf0605bcd6561fe2a16538dc4cd7d89f8e2fd", PODMAN, "ec50f0ed8439974c89f9eaa1b32cf0605bcd6561fe2a16538dc4cd7d89f8e2fd", "419e7c15d0ecd1c482b449c6805768fc33c7497b2dbbaabce07fc2e08e97b145", "", 3, 2),
    ("/libpod_parent/419e7c15d0ecd1c482b449c6805768fc33c7497b2dbbaabce07fc2e08e97b145", PODMAN, "", "419e7c15d0ecd1c482b449c6805768fc33c7497b2dbbaabce07fc2e08e97b145", "", 0, 2),
    ("/libpod_parent/conmon", NONE, "", "", "", 0, 0),
    ("/machine.slice/libpod-1d16e5700bb207936a96b02cfe929fa161e5685aa15186f4c8be5dc44821b860.scope", PODMAN, "1d16e5700bb207936a96b02cfe929fa161e5685aa15186f4c8be5dc44821b860", "", "libpod-1d16e5700bb207936a96b02cfe929fa161e5685aa15186f4c8be5dc44821b860.scope", 2, 0),
    ("/machine.slice/libpod-1d16e5700bb207936a96b02cfe929fa161e5685aa15186f4c8be5dc44821b860.scope/container", PODMAN, "1d16e5700bb207936a96b02cfe929fa161e5685aa15186f4c8be5dc44821b860", "", "libpod-1d16e5700bb207936a96b02cfe929fa161e5685aa15186f4c8be5dc44821b860.scope", 2, 0),
    ("/machine.slice/libpod-conmon-1d16e5700bb207936a96b02cfe929fa161e5685aa15186f4c8be5dc44821b860.scope", NONE, "", "", "libpod-conmon-1d16e5700bb207936a96b02cfe929fa161e5685aa15186f4c8be5dc44821b860.scope", 0, 0),
    ("/machine.slice/machine-libpod_pod_aed1dcce39a52379aaa25179323c2597863a7a9bc9a974950c58d6b5ea4f04e7.slice/libpod-1d16e5700bb207936a96b02cfe929fa161e5685aa15186f4c8be5dc44821b860.scope", PODMAN, "1d16e5700bb207936a96b02cfe929fa161e5685aa15186f4c8be5dc44821b860", "aed1dcce39a52379aaa25179323c2597863a7a9bc9a974950c58d6b5ea4f04e7", "libpod-1d16e5700bb207936a96b02cfe929fa161e5685aa15186f4c8be5dc44821b860.scope", 3, 2),
    ("/machine.slice/machine-libpod_pod_aed1dcce39a52379aaa25179323c2597863a7a9bc9a974950c58d6b5ea4f04e7.slice/libpod-conmon-1d16e5700bb207936a96b02cfe929fa161e5685aa15186f4c8be5dc44821b860.scope", PODMAN, "", "aed1dcce39a52379aaa25179323c2597863a7a9bc9a974950c58d6b5ea4f04e7", "machine-libpod_pod_aed1dcce39a52379aaa25179323c2597863a7a9bc9a974950c58d6b5ea4f04e7.slice", 0, 2),
    ("/libpod_pod_aed1dcce39a52379aaa25179323c2597863a7a9bc9a974950c58d6b5ea4f04e7.slice/libpod-1d16e5700bb207936a96b02cfe929fa161e5685aa15186f4c8be5dc44821b860.scope", PODMAN, "1d16e5700bb207936a96b02cfe929fa161e5685aa15186f4c8be5dc44821b860", "aed1dcce39a52379aaa25179323c2597863a7a9bc9a974950c58d6b5ea4f04e7", "libpod-1d16e5700bb207936a96b02cfe929fa161e5685aa15186f4c8be5dc44821b860.scope", 2, 1),
    // podman --cgroups=split, as quadlet does [seen], beside it conmon [seen]
    ("/system.slice/nginx.service/libpod-payload-9687bac58d5c4d1606aa46af33d1a21c1d1652e0ac9fb3fc0fc86e3495f42869", PODMAN, "9687bac58d5c4d1606aa46af33d1a21c1d1652e0ac9fb3fc0fc86e3495f42869", "", "nginx.service", 3, 0),
    ("/system.slice/nginx.service/runtime", NONE, "", "", "nginx.service", 0, 0),
    // rootless podman: [seen] scope, [seen] crun's child, [made] pod, [seen] quadlet, [seen] nested slices, [seen] manager in another slice
    ("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-4d6afbcf669e6342da8864190234ace265dabc5d48cf57c19823fa0072f7cc92.scope", PODMAN, "4d6afbcf669e6342da8864190234ace265dabc5d48cf57c19823fa0072f7cc92", "", "user@1000.service", 5, 0),
    ("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-4d6afbcf669e6342da8864190234ace265dabc5d48cf57c19823fa0072f7cc92.scope/container", PODMAN, "4d6afbcf669e6342da8864190234ace265dabc5d48cf57c19823fa0072f7cc92", "", "user@1000.service", 5, 0),
    ("/user.slice/user-1000.slice/user@1000.service/user.slice/user-libpod_pod_aed1dcce39a52379aaa25179323c2597863a7a9bc9a974950c58d6b5ea4f04e7.slice/libpod-4d6afbcf669e6342da8864190234ace265dabc5d48cf57c19823fa0072f7cc92.scope", PODMAN, "4d6afbcf669e6342da8864190234ace265dabc5d48cf57c19823fa0072f7cc92", "aed1dcce39a52379aaa25179323c2597863a7a9bc9a974950c58d6b5ea4f04e7", "user@1000.service", 6, 5),
    ("/user.slice/user-1000.slice/user@1000.service/app.slice/redis.service/libpod-payload-e8c29da1a2f6c4bb032304f7dfbc5a767e026092c4a2fcbc830e58565f972f54", PODMAN, "e8c29da1a2f6c4bb032304f7dfbc5a767e026092c4a2fcbc830e58565f972f54", "", "user@1000.service", 6, 0),
    ("/user.slice/user-1003.slice/user@1003.service/app.slice/app-kollektivkart.slice/kollektivkart@8000.service/libpod-payload-fdd0fbf5a81144fdfc6d8383debbd0808cd4a569dadba51e9273280bec5bab8b", PODMAN, "fdd0fbf5a81144fdfc6d8383debbd0808cd4a569dadba51e9273280bec5bab8b", "", "user@1003.service", 7, 0),
    ("/workloads.slice/user@10008.service/user.slice/libpod-4d6afbcf669e6342da8864190234ace265dabc5d48cf57c19823fa0072f7cc92.scope/container", PODMAN, "4d6afbcf669e6342da8864190234ace265dabc5d48cf57c19823fa0072f7cc92", "", "user@10008.service", 4, 0),

    // Kubernetes, cgroupfs: [seen] burstable/besteffort/guaranteed, [seen] child of a container, [made] CRI-O, its conmon, pod alone
    ("/kubepods/besteffort/pod74ba62da-1a3d-11e7-bb11-080027cb0e22/cb1eadb7abe3a6545e9856411207073277838e1bdc003337c2f8685faeedc32c", KUBERNETES, "cb1eadb7abe3a6545e9856411207073277838e1bdc003337c2f8685faeedc32c", "74ba62da-1a3d-11e7-bb11-080027cb0e22", "", 4, 3),
    ("/kubepods/burstable/pod22697648-cc63-47d6-ba97-fe420988dfc1/da31e536c8d61304a6d5998d163d12400a7a9a1003e1d86369e8fadb022fc17d", KUBERNETES, "da31e536c8d61304a6d5998d163d12400a7a9a1003e1d86369e8fadb022fc17d", "22697648-cc63-47d6-ba97-fe420988dfc1", "", 4, 3),
    ("/kubepods/pod95387fa4-da9c-11e7-9d36-5254b24cbf5e/6895a3e13439535852d3184ac2aadd26d7363cc035f171545ec7d4ce74073b0b", KUBERNETES, "6895a3e13439535852d3184ac2aadd26d7363cc035f171545ec7d4ce74073b0b", "95387fa4-da9c-11e7-9d36-5254b24cbf5e", "", 3, 2),
    ("/kubepods/besteffort/podf8a694f2-7c08-11e9-98da-000c29077430/c04e0a88a1de067f25bece337d4dbb897396e0b623c2a65330850fc9823f1903/kube-proxy", KUBERNETES, "c04e0a88a1de067f25bece337d4dbb897396e0b623c2a65330850fc9823f1903", "f8a694f2-7c08-11e9-98da-000c29077430", "", 4, 3),
    ("/kubepods/burstable/pod1858680e-b044-4fd5-9dd4-f137e30e2180/crio-7a1fd6fe8cdfbd44dc78c4cc85dad7031eaab4365801684cad0aabdeaf863f9e", CRIO, "7a1fd6fe8cdfbd44dc78c4cc85dad7031eaab4365801684cad0aabdeaf863f9e", "1858680e-b044-4fd5-9dd4-f137e30e2180", "", 4, 3),
    ("/kubepods/burstable/pod1858680e-b044-4fd5-9dd4-f137e30e2180/crio-conmon-7a1fd6fe8cdfbd44dc78c4cc85dad7031eaab4365801684cad0aabdeaf863f9e", KUBERNETES, "", "1858680e-b044-4fd5-9dd4-f137e30e2180", "", 0, 3),
    ("/kubepods/burstable/pod1858680e-b044-4fd5-9dd4-f137e30e2180", KUBERNETES, "", "1858680e-b044-4fd5-9dd4-f137e30e2180", "", 0, 3),
    ("/kubelet/kubepods/burstable/pod1858680e-b044-4fd5-9dd4-f137e30e2180/c04e0a88a1de067f25bece337d4dbb897396e0b623c2a65330850fc9823f1903", KUBERNETES, "c04e0a88a1de067f25bece337d4dbb897396e0b623c2a65330850fc9823f1903", "1858680e-b044-4fd5-9dd4-f137e30e2180", "", 5, 4),
    ("/kubepods/burstable/pod487a0dc6dccaeefbcfedba7a7ce1ca18/c04e0a88a1de067f25bece337d4dbb897396e0b623c2a65330850fc9823f1903", KUBERNETES, "c04e0a88a1de067f25bece337d4dbb897396e0b623c2a65330850fc9823f1903", "487a0dc6dccaeefbcfedba7a7ce1ca18", "", 4, 3),
    // Kubernetes, systemd: [seen] docker, containerd, CRI-O, static pod, --cgroup-root, CRI-O's conmon, guaranteed, pod alone
    ("/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod045b1e35_7f13_11e7_ac42_0050568ffca0.slice/docker-b5b6f2da8008be266864f896f93789762b2ce50792114a5c5f2cc3315af0bc70.scope", DOCKER, "b5b6f2da8008be266864f896f93789762b2ce50792114a5c5f2cc3315af0bc70", "045b1e35-7f13-11e7-ac42-0050568ffca0", "docker-b5b6f2da8008be266864f896f93789762b2ce50792114a5c5f2cc3315af0bc70.scope", 4, 3),
    ("/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-poddd1bf9d1_241d_47f5_8e25_12de83135812.slice/cri-containerd-f45298cd514d1930c4fe3afc4412e59547f7e3148fddd22ca33cefce046eb830.scope", CONTAINERD, "f45298cd514d1930c4fe3afc4412e59547f7e3148fddd22ca33cefce046eb830", "dd1bf9d1-241d-47f5-8e25-12de83135812", "cri-containerd-f45298cd514d1930c4fe3afc4412e59547f7e3148fddd22ca33cefce046eb830.scope", 4, 3),
    ("/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod8ca306fa_3c03_47fa_97dd_19979c345572.slice/crio-d6d725b909f37c3e232aadfbafa950a58bfe7baa579ba8c47a12be88bb921607.scope", CRIO, "d6d725b909f37c3e232aadfbafa950a58bfe7baa579ba8c47a12be88bb921607", "8ca306fa-3c03-47fa-97dd-19979c345572", "crio-d6d725b909f37c3e232aadfbafa950a58bfe7baa579ba8c47a12be88bb921607.scope", 4, 3),
    ("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod487a0dc6dccaeefbcfedba7a7ce1ca18.slice/crio-7a1fd6fe8cdfbd44dc78c4cc85dad7031eaab4365801684cad0aabdeaf863f9e.scope/container", CRIO, "7a1fd6fe8cdfbd44dc78c4cc85dad7031eaab4365801684cad0aabdeaf863f9e", "487a0dc6dccaeefbcfedba7a7ce1ca18", "crio-7a1fd6fe8cdfbd44dc78c4cc85dad7031eaab4365801684cad0aabdeaf863f9e.scope", 4, 3),
    ("/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod99dcb84d2a34f7e338778606703258c4.slice/cri-containerd-022c4ffba65e5031285fd427553e56c3fd6cc85a3a49f3fa2825d0a258d8a5d6.scope", CONTAINERD, "022c4ffba65e5031285fd427553e56c3fd6cc85a3a49f3fa2825d0a258d8a5d6", "99dcb84d2a34f7e338778606703258c4", "cri-containerd-022c4ffba65e5031285fd427553e56c3fd6cc85a3a49f3fa2825d0a258d8a5d6.scope", 5, 4),
    ("/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod8ca306fa_3c03_47fa_97dd_19979c345572.slice/crio-conmon-d6d725b909f37c3e232aadfbafa950a58bfe7baa579ba8c47a12be88bb921607.scope", KUBERNETES, "", "8ca306fa-3c03-47fa-97dd-19979c345572", "kubepods-besteffort-pod8ca306fa_3c03_47fa_97dd_19979c345572.slice", 0, 3),
    ("/kubepods.slice/kubepods-pod1715d361_61cf_4060_8673_38ab3ca88e66.slice/cri-containerd-022c4ffba65e5031285fd427553e56c3fd6cc85a3a49f3fa2825d0a258d8a5d6.scope", CONTAINERD, "022c4ffba65e5031285fd427553e56c3fd6cc85a3a49f3fa2825d0a258d8a5d6", "1715d361-61cf-4060-8673-38ab3ca88e66", "cri-containerd-022c4ffba65e5031285fd427553e56c3fd6cc85a3a49f3fa2825d0a258d8a5d6.scope", 3, 2),
    ("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1858680e_b044_4fd5_9dd4_f137e30e2180.slice", KUBERNETES, "", "1858680e-b044-4fd5-9dd4-f137e30e2180", "kubepods-burstable-pod1858680e_b044_4fd5_9dd4_f137e30e2180.slice", 0, 3),
    ("/kubepods.slice/kubepods-burstable.slice", NONE, "", "", "kubepods-burstable.slice", 0, 0),
    // containerd on cgroupfs under a kubelet on systemd, hybrid v1 [seen twice: memory and cpuset hierarchy]
    ("/system.slice/containerd.service/kubepods-besteffort-pod2105e389_7471_476e_a50f_6074cef29bbd.slice:cri-containerd:d3d8ccf5cca91931c6285c1d7472c413dd5a7700fddc0aa9f89a9ac7008b003e", CONTAINERD, "d3d8ccf5cca91931c6285c1d7472c413dd5a7700fddc0aa9f89a9ac7008b003e", "2105e389-7471-476e-a50f-6074cef29bbd", "containerd.service", 3, 0),
    ("/kubepods-besteffort-pod2105e389_7471_476e_a50f_6074cef29bbd.slice:cri-containerd:d3d8ccf5cca91931c6285c1d7472c413dd5a7700fddc0aa9f89a9ac7008b003e", CONTAINERD, "d3d8ccf5cca91931c6285c1d7472c413dd5a7700fddc0aa9f89a9ac7008b003e", "2105e389-7471-476e-a50f-6074cef29bbd", "", 1, 0),

    // containerd and CRI-O without a kubelet: nerdctl [seen], [made] cgroupfs, CRI, ctr [run]: any name, the disk has to say
    ("/system.slice/nerdctl-5dd96d5394ca930a854a390ea46f7515a8bc930123eb3251ba20f2708a38fc61.scope", CONTAINERD, "5dd96d5394ca930a854a390ea46f7515a8bc930123eb3251ba20f2708a38fc61", "", "nerdctl-5dd96d5394ca930a854a390ea46f7515a8bc930123eb3251ba20f2708a38fc61.scope", 2, 0),
    ("/default/5dd96d5394ca930a854a390ea46f7515a8bc930123eb3251ba20f2708a38fc61", CONTAINERD, "5dd96d5394ca930a854a390ea46f7515a8bc930123eb3251ba20f2708a38fc61", "", "", 2, 0),
    ("/k8s.io/5dd96d5394ca930a854a390ea46f7515a8bc930123eb3251ba20f2708a38fc61", CONTAINERD, "5dd96d5394ca930a854a390ea46f7515a8bc930123eb3251ba20f2708a38fc61", "", "", 2, 0),
    ("/system.slice/cri-containerd-5dd96d5394ca930a854a390ea46f7515a8bc930123eb3251ba20f2708a38fc61.scope", CONTAINERD, "5dd96d5394ca930a854a390ea46f7515a8bc930123eb3251ba20f2708a38fc61", "", "cri-containerd-5dd96d5394ca930a854a390ea46f7515a8bc930123eb3251ba20f2708a38fc61.scope", 2, 0),
    ("/crio/crio-5dd96d5394ca930a854a390ea46f7515a8bc930123eb3251ba20f2708a38fc61", CRIO, "5dd96d5394ca930a854a390ea46f7515a8bc930123eb3251ba20f2708a38fc61", "", "", 2, 0),
    ("/default/ctr-test", NONE, "", "", "", 0, 0),

    // LXC and Incus: a node in a container again [seen, seen, made]
    ("/lxc.payload.ny2g2r5hh3-lxc/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podeded8c65_6e8e_4c6e_a889_3e427565c740.slice/cri-containerd-ec9ee26695deb4cc72bc665efff1cf3a03fdfb12f1303e02fe9252985e084a95.scope", None, "ny2g2r5hh3-lxc", "", "", 1, 0),
    ("/lxc.payload.waydroid", None, "waydroid", "", "", 1, 0),
    ("/lxc/100/ns/system.slice/cron.service", None, "100", "", "", 2, 0),
    ("/lxc.monitor.waydroid", NONE, "", "", "", 0, 0),

    // runc and crun alone [run x3]: any name
    ("/wl-runc/named", NONE, "", "", "", 0, 0),
    ("/wl-crun-two", NONE, "", "", "", 0, 0),
    ("/outer/c8ec7e6976f781a9d61ec2a80e73f261/wl-runc-two", NONE, "", "", "", 0, 0),
    // systemd and plain [seen, made]
    ("/", NONE, "", "", "", 0, 0),
    ("", NONE, "", "", "", 0, 0),
    ("/init.scope", NONE, "", "", "init.scope", 0, 0),
    ("/system.slice/cron.service", NONE, "", "", "cron.service", 0, 0),
    ("/system.slice/system-getty.slice/getty@tty1.service", NONE, "", "", "getty@tty1.service", 0, 0),
    (r"/system.slice/system-serial\x2dgetty.slice/serial-getty@ttyS0.service", NONE, "", "", "serial-getty@ttyS0.service", 0, 0),
    (r"/system.slice/dev-disk-by\x2dlabel-data.swap", NONE, "", "", r"dev-disk-by\x2dlabel-data.swap", 0, 0),
    ("/system.slice/_cpu.service/child", NONE, "", "", "cpu.service", 0, 0),
    (r"/machine.slice/machine-qemu\x2d1\x2dvm.scope/libvirt/emulator", NONE, "", "", r"machine-qemu\x2d1\x2dvm.scope", 0, 0),
    ("/user.slice/user-1000.slice/session-3.scope", NONE, "", "", "session-3.scope", 0, 0),
    ("/user.slice/user-1000.slice/user@1000.service/app.slice/app-gnome-firefox-3721.scope", NONE, "", "", "user@1000.service", 0, 0),
    ("/user/1000.user/c2.session", NONE, "", "", "", 0, 0),
    ("/mesos/0c8eea72-5f2e-4ef6-9b34-2ea1b2b9cf3a", NONE, "", "", "", 0, 0),
];

fn present(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

#[test]
fn real_paths_have_the_right_owner() {
    for &(path, engine, id, pod, unit, container_depth, pod_depth) in TABLE {
        let identity = CgroupIdentity::of(path.as_bytes());
        assert_eq!(identity.engine, engine, "{path}");
        assert_eq!(identity.container_id.as_deref(), present(id), "{path}");
        assert_eq!(identity.pod_uid.as_deref(), present(pod), "{path}");
        assert_eq!(identity.unit.as_deref(), present(unit), "{path}");
        assert_eq!(identity.container_depth.unwrap_or_default(), container_depth, "{path}");
        assert_eq!(identity.pod_depth.unwrap_or_default(), pod_depth, "{path}");
        assert_eq!(identity.depth, components(path.as_bytes()).count(), "{path}");
        let runtime = match (container_depth + pod_depth, unit) {
            (0, "") => Runtime::Process,
            (0, _) => Runtime::Systemd,
            _ => Runtime::Unknown,
        };
        assert_eq!(identity.runtime, runtime, "{path}");
    }
}

#[test]
fn the_pods_class_is_in_the_path() {
    for (path, qos) in [
        ("/kubepods/besteffort/pod74ba62da-1a3d-11e7-bb11-080027cb0e22", Some(Qos::BestEffort)),
        ("/kubepods/burstable/pod74ba62da-1a3d-11e7-bb11-080027cb0e22/x", Some(Qos::Burstable)),
        ("/kubepods/pod74ba62da-1a3d-11e7-bb11-080027cb0e22", Some(Qos::Guaranteed)),
        ("/kubepods.slice/kubepods-pod1715d361_61cf_4060_8673_38ab3ca88e66.slice", Some(Qos::Guaranteed)),
        (
            "/a.slice/a-kubepods.slice/a-kubepods-besteffort.slice/a-kubepods-besteffort-pod1715d361_61cf_4060_8673_38ab3ca88e66.slice",
            Some(Qos::BestEffort),
        ),
        ("/libpod_parent/419e7c15d0ecd1c482b449c6805768fc33c7497b2dbbaabce07fc2e08e97b145", None),
        ("/system.slice/cron.service", None),
    ] {
        assert_eq!(CgroupIdentity::of(path.as_bytes()).qos, qos, "{path}");
    }
}

#[test]
fn a_users_own_units_are_told_from_the_systems() {
    let identity = CgroupIdentity::of(b"/user.slice/user-1000.slice/user@1000.service/app.slice/docker.service");
    assert_eq!(identity.unit.as_deref(), Some("user@1000.service"));
    assert_eq!(identity.user_unit.as_deref(), Some("docker.service"));
    assert_eq!((identity.user, identity.runtime), (Some(1000), Runtime::Systemd));
    assert_eq!(CgroupIdentity::of(b"/system.slice/cron.service").user, None);
}

/// Paths that look like containers and are none; `@` stands for 64 hex digits, `%` for a pod's uid.
const LOOK_ALIKES: &[&str] = &[
    // ids of another form
    "/docker/#63",
    "/docker/#65",
    "/docker/#upper",
    "/docker/#odd",
    "/system.slice/docker-#63.scope",
    "/system.slice/docker-#65.scope",
    "/system.slice/docker-#upper.scope",
    "/system.slice/docker-xyz.scope",
    "/system.slice/docker-.scope",
    "/system.slice/docker-@",
    "/system.slice/docker-@.scope.d",
    "/system.slice/docker-@.slice",
    "/system.slice/docker-@.service",
    "/system.slice/docker-@-1.scope",
    "/system.slice/xdocker-@.scope",
    "/system.slice/@.scope",
    "/machine.slice/libpod-#63.scope",
    "/machine.slice/libpod-conmon-@.scope",
    "/libpod_parent/libpod-#65",
    "/libpod_parent/libpod-conmon-@",
    "/libpod_parent/@x/libpod-@",
    // services that are called like a container, and containers' names inside them
    "/docker/foo.service",
    "/system.slice/@.service",
    "/system.slice/docker.service/@",
    "/system.slice/docker.service/docker/@",
    "/system.slice/foo.service/docker-@.scope",
    "/system.slice/foo.service/kubepods/burstable/pod%/@",
    "/system.slice/foo.service/libpod-@",
    "/system.slice/foo.service/kubepods-besteffort-pod%_.slice:cri-containerd:@",
    "/system.slice/foo.service/sub/libpod-payload-@",
    "/system.slice/libpod-payload-@",
    "/system.slice/foo.scope/system.slice/docker-@.scope",
    // names below a plain cgroup that systemd or an engine would put elsewhere
    "/foo/docker/@",
    "/foo/system.slice/docker-@.scope",
    "/foo/docker-@.scope",
    "/foo/libpod-@.scope",
    "/system.slice/plain/docker-@.scope",
    "/system.slice/kubepods/pod%/@",
    "/system.slice/docker/@",
    "/@/docker/@",
    "/mine/@/libpod-@",
    "/foo/libpod-@",
    "/ecs/task/@",
    "/buildkit/@",
    "/@",
    "/moby/sub/@",
    // a user's imitations; only podman's names are taken from a user's manager
    "/user.slice/docker-@.scope",
    "/user.slice/libpod-@.scope",
    "/user.slice/user-1000.slice/docker-@.scope",
    "/user.slice/user-1000.slice/session-3.scope/docker/@",
    "/user.slice/user-1000.slice/user@1000.service/docker/@",
    "/user.slice/user-1000.slice/user@1000.service/user.slice/docker-@.scope",
    "/user.slice/user-1000.slice/user@1000.service/user.slice/nerdctl-@.scope",
    "/user.slice/user-1000.slice/user@1000.service/user.slice/crio-@.scope",
    "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-conmon-@.scope",
    "/user.slice/user-1000.slice/user@1000.service/app.slice/foo.service/docker/@",
    "/user.slice/user-1000.slice/user@1000.service/app.slice/containerd.service/kubepods-pod%_.slice:cri-containerd:@",
    "/user.slice/user-1000.slice/user@1000.service/kubepods.slice/kubepods-pod%_.slice/cri-containerd-@.scope",
    "/user.slice/user-1000.slice/user@01000.service/user.slice/libpod-@.scope",
    "/user.slice/user-1000.slice/user@+1000.service/user.slice/libpod-@.scope",
    "/user.slice/user-1000.slice/user@99999999999.service/user.slice/libpod-@.scope",
    // pods in the wrong place or with a wrong uid
    "/kubepods/pod123/@",
    "/kubepods/best/pod%/@",
    "/pod%/@",
    "/kubepods.slice/pod%/@",
    "/kubepods/podX%/@",
    "/kubepods-pod%_.slice/cri-containerd-#63.scope",
    "/other.slice/kubepods-pod%_.slice/crio-@x.scope",
    "/kubepods.slice/kubepods-burstable-pod%_.slice/crio-#63.scope",
    "/kubepods-besteffort-pod%_.slice:cri-containerd:#63",
    "/kubepods-pod%_.slice:docker:@",
    "/foo/kubepods-pod%_.slice:cri-containerd:@",
    // tricks
    "/docker/../docker/@",
    "/./docker/@",
    "/docker /@",
    "/docker/@ (deleted)",
    "/docker\n/@",
    "/lxc.payload.",
    "/lxc/a b",
    "/lxc.payload.a\u{202e}",
    "/foo/lxc/100",
];

#[test]
fn look_alikes_are_no_containers() {
    let id = "ec08435e04266c5ba381fccbb829f626d11d8ddf5f8f547263c7a2d79ab4787a";
    let uid = "1858680e-b044-4fd5-9dd4-f137e30e2180";
    for shape in LOOK_ALIKES {
        let path = shape
            .replace("#63", &id[1..])
            .replace("#65", &format!("{id}0"))
            .replace("#upper", &id.to_uppercase())
            .replace("#odd", &id.replace('e', "g"))
            .replace("%_", &uid.replace('-', "_"))
            .replace('%', uid)
            .replace('@', "\u{1}");
        // `@` is also a sign of unit names: only those not within one stand for the id.
        let path = path.replace("user\u{1}", "user@").replace('\u{1}', id);
        let identity = CgroupIdentity::of(path.as_bytes());
        assert_eq!(identity.container_id, None, "{path}");
        assert_eq!(identity.container_depth, None, "{path}");
    }
}

#[test]
fn a_pods_slice_that_systemd_would_put_elsewhere_names_no_pod() {
    let uid = "1858680e_b044_4fd5_9dd4_f137e30e2180";
    for path in [
        format!("/kubepods-pod{uid}.slice"),
        format!("/other.slice/kubepods-pod{uid}.slice"),
        format!("/kubepods.slice/kubepods-burstable-pod{uid}.slice"),
        format!("/kubepods.slice/kubepods-pod{}.slice", uid.replace('_', "-")),
        format!("/kubepods.slice/kubepods-pod{}.slice", uid.to_uppercase()),
        format!("/kubepods.slice/kubepods-pod{uid}0.slice"),
        format!("/kubepods.slice/kubepods-guaranteed.slice/kubepods-guaranteed-pod{uid}.slice"),
    ] {
        assert_eq!(CgroupIdentity::of(path.as_bytes()).pod_uid, None, "{path}");
    }
}

#[test]
fn an_agent_inside_a_kind_node_sees_the_pods() {
    let node = "/system.slice/docker-89ac90181a86fdea23d87ab993ceb698aa61528123c23135ef43fe5246a1b11e.scope";
    let pod = "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod1715d361_61cf_4060_8673_38ab3ca88e66.slice";
    let id = "ee3fc60554cd9eefdd745a10dda84e041a7883c0381d067e76185d342de64759";
    let path = format!("{node}{pod}/cri-containerd-{id}.scope");
    let inside = CgroupIdentity::below(node.as_bytes(), path.as_bytes());
    assert_eq!(inside.container_id.as_deref(), Some(id));
    assert_eq!((inside.base_depth, inside.pod_depth, inside.container_depth), (2, Some(5), Some(6)));
    let elsewhere = CgroupIdentity::below(node.as_bytes(), b"/system.slice/cron.service");
    assert_eq!((elsewhere.base_depth, elsewhere.unit.as_deref()), (0, Some("cron.service")));
    assert_eq!(CgroupIdentity::below(node.as_bytes(), node.as_bytes()).runtime, Runtime::Process);
}

/// A small generator of numbers (xorshift64): the same every time, so that a failure comes again.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(bound).unwrap()).unwrap()
    }

    /// Names as engines give them, cut, doubled and mixed with any byte.
    fn name(&mut self) -> Vec<u8> {
        let row = TABLE[self.below(TABLE.len())].0.as_bytes();
        let names: Vec<&[u8]> = components(row).chain([&b"docker"[..], b"libpod_parent", b".."]).collect();
        let mut name = names[self.below(names.len())].to_vec();
        for _ in 0..self.below(4) {
            let at = self.below(name.len() + 1);
            match self.below(3) {
                0 => name.insert(at, u8::try_from(self.below(256)).unwrap()),
                1 => name.truncate(at),
                _ => name = [&name[..at], &name[at / 2..]].concat(),
            }
        }
        name
    }
}

#[test]
fn no_bytes_make_it_panic_and_ids_are_always_well_formed() {
    let mut numbers = Numbers(0x5eed);
    for _ in 0..200_000 {
        let mut path = Vec::new();
        for _ in 0..numbers.below(7) {
            path.push(b'/');
            path.extend(numbers.name());
        }
        path.truncate(4096);
        let identity = CgroupIdentity::of(&path);
        let depth = identity.depth;
        assert!(identity.container_depth.is_none_or(|at| at <= depth && at > identity.pod_depth.unwrap_or(0)));
        assert_eq!(identity.container_id.is_some(), identity.container_depth.is_some());
        if let Some(id) = &identity.container_id {
            assert!(components(&path).any(|name| escape::escape(name).contains(id.as_str())));
        }
    }
}

#[test]
fn a_path_of_four_kibibytes_is_read() {
    for path in [vec![b'/'; 4096], b"/a".repeat(2048), vec![0xff; 4096], b"/-.slice".repeat(512)] {
        let identity = CgroupIdentity::of(&path);
        assert_eq!(identity.container_id, None);
        assert_eq!(identity.depth, components(&path).count());
    }
}

#[test]
fn what_a_container_makes_below_its_cgroup_never_changes_its_identity() {
    let mut numbers = Numbers(7);
    let containers = TABLE.iter().filter(|row| CgroupIdentity::of(row.0.as_bytes()).is_container());
    for row in containers {
        let outer = CgroupIdentity::of(row.0.as_bytes());
        for _ in 0..2_000 {
            let mut path = row.0.as_bytes().to_vec();
            for _ in 0..=numbers.below(4) {
                path.push(b'/');
                path.extend(numbers.name());
            }
            let inner = CgroupIdentity::of(&path);
            let depth = inner.depth;
            assert_eq!(inner, CgroupIdentity { depth, ..outer.clone() }, "{}", escape::escape(&path));
        }
    }
}
