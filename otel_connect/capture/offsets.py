"""The members of kernel structures that the probes read, and where this kernel keeps them."""

from collections.abc import Mapping

from otel_connect.capture.btf import TypeInformation
from otel_connect.errors import ProbeError

# Name in the probes → structure, and its path; a second path is the name in other kernels.
MEMBERS: dict[str, tuple[str, ...]] = {
    "OFF_sock__skc_family": ("sock", "__sk_common.skc_family"),
    "OFF_sock__skc_state": ("sock", "__sk_common.skc_state"),
    "OFF_sock__skc_dport": ("sock", "__sk_common.skc_dport"),
    "OFF_sock__skc_daddr": ("sock", "__sk_common.skc_daddr"),
    "OFF_sock__skc_rcv_saddr": ("sock", "__sk_common.skc_rcv_saddr"),
    "OFF_sock__skc_v6_daddr": ("sock", "__sk_common.skc_v6_daddr"),
    "OFF_sock__skc_v6_rcv_saddr": ("sock", "__sk_common.skc_v6_rcv_saddr"),
    "OFF_sock__skc_net": ("sock", "__sk_common.skc_net.net"),
    "OFF_sock__skc_num": ("sock", "__sk_common.skc_num"),
    "OFF_sock__sk_err": ("sock", "sk_err"),
    "OFF_sock__sk_err_soft": ("sock", "sk_err_soft"),
    "OFF_sock__sk_error_queue": ("sock", "sk_error_queue"),
    "OFF_sock__sk_error_queue_prev": ("sock", "sk_error_queue.prev"),
    "OFF_sock__sk_lock_owned": ("sock", "sk_lock.owned"),
    "OFF_sock__sk_protocol": ("sock", "sk_protocol"),
    "OFF_sock__sk_shutdown": ("sock", "sk_shutdown"),
    "OFF_sock__sk_socket": ("sock", "sk_socket"),
    "OFF_sk_buff__cb": ("sk_buff", "cb"),
    "OFF_sk_buff__data": ("sk_buff", "data"),
    "OFF_sk_buff__dev": ("sk_buff", "dev"),
    "OFF_sk_buff__head": ("sk_buff", "head"),
    "OFF_sk_buff__len": ("sk_buff", "len"),
    "OFF_sk_buff__network_header": ("sk_buff", "network_header"),
    "OFF_sk_buff__protocol": ("sk_buff", "protocol"),
    "OFF_sk_buff__sk": ("sk_buff", "sk"),
    "OFF_sk_buff__skb_iif": ("sk_buff", "skb_iif"),
    "OFF_net_device__flags": ("net_device", "flags"),
    "OFF_net_device__nd_net": ("net_device", "nd_net.net"),
    "OFF_sock_exterr_skb__ee_errno": ("sock_exterr_skb", "ee.ee_errno"),
    "OFF_sock_exterr_skb__ee_origin": ("sock_exterr_skb", "ee.ee_origin"),
    "OFF_inet_sock__inet_sport": ("inet_sock", "inet_sport"),
    "OFF_inet_connection_sock__icsk_retransmits": ("inet_connection_sock", "icsk_retransmits"),
    "OFF_tcp_sock__retrans_stamp": ("tcp_sock", "retrans_stamp"),
    "OFF_tcp_sock__segs_out": ("tcp_sock", "segs_out"),
    "OFF_tcp_sock__srtt_us": ("tcp_sock", "srtt_us"),
    "OFF_tcp_sock__tcp_wstamp_ns": ("tcp_sock", "tcp_wstamp_ns"),
    "OFF_tcp_sock__total_retrans": ("tcp_sock", "total_retrans"),
    "OFF_net__inum": ("net", "ns.inum"),
    "OFF_msghdr__msg_name": ("msghdr", "msg_name"),
    "OFF_msghdr__msg_namelen": ("msghdr", "msg_namelen"),
    "OFF_socket__state": ("socket", "state"),
    "OFF_socket__type": ("socket", "type"),
    "OFF_socket__file": ("socket", "file"),
    "OFF_socket__sk": ("socket", "sk"),
    "OFF_file__f_flags": ("file", "f_flags"),
    "OFF_file__private_data": ("file", "private_data"),
    "OFF_files_struct__fdt": ("files_struct", "fdt"),
    "OFF_fdtable__max_fds": ("fdtable", "max_fds"),
    "OFF_fdtable__fd": ("fdtable", "fd"),
    "OFF_file__f_path_mnt": ("file", "f_path.mnt"),
    "OFF_file__f_path_dentry": ("file", "f_path.dentry"),
    "OFF_vfsmount__mnt_root": ("vfsmount", "mnt_root"),
    "OFF_mount__mnt": ("mount", "mnt"),
    "OFF_mount__mnt_id": ("mount", "mnt_id"),
    "OFF_mount__mnt_parent": ("mount", "mnt_parent"),
    "OFF_mount__mnt_mountpoint": ("mount", "mnt_mountpoint"),
    "OFF_dentry__d_parent": ("dentry", "d_parent"),
    "OFF_dentry__d_name": ("dentry", "d_name.name"),
    "OFF_mm_struct__exe_file": ("mm_struct", "exe_file"),
    "OFF_mm_struct__env_start": ("mm_struct", "env_start"),
    "OFF_mm_struct__env_end": ("mm_struct", "env_end"),
    "OFF_mm_struct__arg_start": ("mm_struct", "arg_start"),
    "OFF_mm_struct__arg_end": ("mm_struct", "arg_end"),
    "OFF_fs_struct__root_mnt": ("fs_struct", "root.mnt"),
    "OFF_fs_struct__root_dentry": ("fs_struct", "root.dentry"),
    "OFF_cred__euid": ("cred", "euid"),
    "OFF_cred__egid": ("cred", "egid"),
    "OFF_task_struct__cred": ("task_struct", "cred"),
    "OFF_task_struct__flags": ("task_struct", "flags"),
    "OFF_task_struct__mm": ("task_struct", "mm"),
    "OFF_task_struct__fs": ("task_struct", "fs"),
    "OFF_task_struct__self_exec_id": ("task_struct", "self_exec_id"),
    "OFF_task_struct__files": ("task_struct", "files"),
    "OFF_task_struct__group_leader": ("task_struct", "group_leader"),
    "OFF_task_struct__real_parent": ("task_struct", "real_parent"),
    "OFF_task_struct__start_boottime": ("task_struct", "start_boottime", "real_start_time"),
    "OFF_task_struct__tgid": ("task_struct", "tgid"),
}

# What can be done without: the switch in the probes, on where this kernel has all the members.
OPTIONAL: dict[str, dict[str, tuple[str, ...]]] = {
    "OTC_CGROUPS": {
        "OFF_task_struct__cgroups": ("task_struct", "cgroups"),
        "OFF_css_set__dfl_cgrp": ("css_set", "dfl_cgrp"),
        "OFF_css_set__subsys": ("css_set", "subsys"),
        "OFF_cgroup_subsys_state__cgroup": ("cgroup_subsys_state", "cgroup"),
        "OFF_cgroup__kn": ("cgroup", "kn"),
        "OFF_cgroup__root": ("cgroup", "root"),
        "OFF_kernfs_node__parent": ("kernfs_node", "__parent", "parent"),
        "OFF_kernfs_node__name": ("kernfs_node", "name"),
    },
    "OTC_MPTCP": {
        "OFF_inet_connection_sock__icsk_ulp_data": ("inet_connection_sock", "icsk_ulp_data"),
        "OFF_mptcp_sock__first": ("mptcp_sock", "first"),
    },
    "OTC_IO_URING": {
        "OFF_io_kiocb__file": ("io_kiocb", "file"),
        "OFF_io_kiocb__opcode": ("io_kiocb", "opcode"),
        "OFF_io_kiocb__flags": ("io_kiocb", "flags"),
        "OFF_io_kiocb__fd": ("io_kiocb", "cqe.fd"),
        "OFF_io_connect__addr": ("io_connect", "addr"),
        "OFF_io_connect__addr_len": ("io_connect", "addr_len"),
        "OFF_io_uring_cqe__res": ("io_uring_cqe", "res"),
    },
    "OTC_CALL_NUMBER": {  # x86
        "OFF_pt_regs__orig_ax": ("pt_regs", "orig_ax"),
        "OFF_task_struct__stack": ("task_struct", "stack"),
    },
    "OTC_PREEMPT_COUNT": {  # x86 keeps it for each CPU, where no program finds it on every kernel
        "OFF_preempt_count": ("task_struct", "thread_info.preempt.count", "thread_info.preempt_count"),
    },
    "OTC_VPIDS": {
        "OFF_task_struct__thread_pid": ("task_struct", "thread_pid"),
        "OFF_pid__level": ("pid", "level"),
        "OFF_pid__numbers": ("pid", "numbers"),
        "OFF_upid__nr": ("upid", "nr"),
    },
}

_DROP_REASONS, _DROP_PREFIX = "skb_drop_reason", "SKB_DROP_REASON_"

# What of that is a bit: OFF_<name> is its byte, BIT_<name> its mask.
OPTIONAL_FLAGS: dict[str, dict[str, tuple[str, str]]] = {
    "OTC_MPTCP": {"mptcp_subflow_context__request_join": ("mptcp_subflow_context", "request_join")},
}


def find_offsets(types: TypeInformation) -> dict[str, int]:
    """Look up every member; raises ProbeError naming the first that this kernel does not have.

    With them come the switches of what can be done without, each with its members, or 0 for all of them.
    """
    numbers = _offsets(types, MEMBERS)
    for switch, members in OPTIONAL.items():
        flags = OPTIONAL_FLAGS.get(switch, {})
        try:
            numbers |= _offsets(types, members) | _flags(types, flags) | {switch: 1}
        except ProbeError:
            bits = (f"{prefix}_{name}" for name in flags for prefix in ("OFF", "BIT"))
            numbers |= dict.fromkeys((*members, *bits), 0) | {switch: 0}
    pids = types.enumerator("cgroup_subsys_id", "pids_cgrp_id")
    numbers["OTC_TYPED_TASK"] = int(types.enumerator("bpf_func_id", "BPF_FUNC_get_current_task_btf") is not None)
    numbers["OTC_PIDS_CONTROLLER"] = -1 if pids is None else pids
    numbers["OTC_DROP_NOT_SPECIFIED"] = types.enumerator(_DROP_REASONS, f"{_DROP_PREFIX}NOT_SPECIFIED") or 0
    numbers["OTC_SOCKET_BYTES"] = _end(
        numbers, "OFF_socket__state", "OFF_socket__type", "OFF_socket__file", "OFF_socket__sk"
    )
    numbers["OTC_SOCK_BYTES"] = _end(numbers, "OFF_sock__skc_family")
    numbers["OTC_TASK_REGISTERS"] = int(types.enumerator("bpf_func_id", "BPF_FUNC_task_pt_regs") is not None)
    numbers["OTC_REGISTERS_BYTES"] = types.size("pt_regs")
    numbers["OTC_UPID_BYTES"] = types.size("upid") if numbers["OTC_VPIDS"] else 0
    return numbers


def drop_reasons(types: TypeInformation) -> dict[int, str]:
    """Return the names of the reasons for which this kernel drops packets, such as ``netfilter_drop``, by number."""
    return {
        number: name.removeprefix(_DROP_PREFIX).lower() for name, number in types.enumerators(_DROP_REASONS).items()
    }


def _end(numbers: Mapping[str, int], *names: str) -> int:
    """Return where the last of some members ends, which are eight bytes long at the most."""
    return max(numbers[name] for name in names) + 8


def _offsets(types: TypeInformation, members: Mapping[str, tuple[str, ...]]) -> dict[str, int]:
    return {name: types.offset(structure, *paths) for name, (structure, *paths) in members.items()}


def _flags(types: TypeInformation, flags: Mapping[str, tuple[str, str]]) -> dict[str, int]:
    found = {name: types.flag(*where) for name, where in flags.items()}
    return {
        f"{prefix}_{name}": number
        for name, numbers in found.items()
        for prefix, number in zip(("OFF", "BIT"), numbers, strict=True)
    }
