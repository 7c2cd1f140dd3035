// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * What Ubuntu adds to AppArmor since 23.10, for a kernel of Debian's: the sysctl kernel.apparmor_restrict_unprivileged_userns.
 * Linux itself has none of it, and asks profiles alone; so this is a model for tests, not Ubuntu's code.
 *
 * While it is 1, a process that no profile confines (its label is `unconfined`, not that of a profile with
 * flags=(unconfined)) and that has no CAP_SYS_ADMIN
 * - gets a user namespace, and no capability in it: as where the profile `unprivileged_userns` is loaded, Ubuntu 24.04;
 * - with the parameter refuse=1 gets none, EACCES: as where it isn't, Ubuntu 23.10.
 */
#include <linux/cred.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/security.h>
#include <linux/sysctl.h>
#include <linux/user_namespace.h>

static bool refuse;
module_param(refuse, bool, 0644);

static bool is_unconfined(void)
{
	static const char word[] = "unconfined";
	char *label;
	u32 id, size;
	bool is;

	security_current_getsecid_subj(&id);
	/* May be called where nothing may sleep: AppArmor allocates atomically here. */
	if (security_secid_to_secctx(id, &label, &size))
		return false;
	is = size >= sizeof(word) - 1 && !strncmp(label, word, sizeof(word) - 1);
	security_release_secctx(label, size);
	return is;
}

/* Zero has the answer of the function replaced. */
static int on_create(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	return !(refuse && !cap_raised(current_cred()->cap_effective, CAP_SYS_ADMIN) && is_unconfined());
}

static int create_is_refused(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	regs_set_return_value(regs, -EACCES);
	return 0;
}

static int on_capable(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	const struct cred *whose = (void *)regs_get_kernel_argument(regs, 0);
	const struct user_namespace *in = whose->user_ns;

	/* Of who is in one; who made it is as before. Root's own namespaces are root's. */
	return !(in != &init_user_ns && !uid_eq(in->owner, GLOBAL_ROOT_UID) && is_unconfined());
}

static int capable_is_refused(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	regs_set_return_value(regs, -EPERM);
	return 0;
}

static struct kretprobe probes[] = {
	{
		.kp.symbol_name = "apparmor_userns_create",
		.entry_handler = on_create, .handler = create_is_refused, .maxactive = 64,
	},
	{
		.kp.symbol_name = "apparmor_capable",
		.entry_handler = on_capable, .handler = capable_is_refused, .maxactive = 64,
	},
};

static int restricted;

static int set(const struct ctl_table *table, int write, void *buffer, size_t *size, loff_t *at)
{
	int error = proc_dointvec_minmax(table, write, buffer, size, at);

	for (int i = 0; write && !error && i < ARRAY_SIZE(probes); i++)
		error = restricted ? enable_kretprobe(&probes[i]) : disable_kretprobe(&probes[i]);
	return error;
}

static struct ctl_table sysctls[] = {
	{
		.procname = "apparmor_restrict_unprivileged_userns",
		.data = &restricted, .maxlen = sizeof(restricted), .mode = 0644, .proc_handler = set,
		.extra1 = SYSCTL_ZERO, .extra2 = SYSCTL_ONE,
	},
};

static int __init begin(void)
{
	struct kretprobe *all[] = { &probes[0], &probes[1] };
	int error = register_kretprobes(all, ARRAY_SIZE(all));

	if (error)
		return error;
	for (int i = 0; i < ARRAY_SIZE(all); i++)
		disable_kretprobe(all[i]);
	if (!register_sysctl("kernel", sysctls)) {
		unregister_kretprobes(all, ARRAY_SIZE(all));
		return -ENOMEM;
	}
	return 0;
}
/* It stays until the machine goes. */
module_init(begin);

MODULE_DESCRIPTION("A model of Ubuntu's restriction of user namespaces");
MODULE_LICENSE("Dual MIT/GPL");
