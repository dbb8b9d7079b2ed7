// SPDX-License-Identifier: GPL-2.0
/*
 * lapic_timer_hz=N on the kernel command line: the frequency of the local APICs' timers, for machines whose maker knows it.
 * The kernel, which has no parameter for that, would measure it for a fifth of a second in every boot.
 *
 * scripts/kernel builds this file into the tuned guest kernel.
 */
#include <linux/init.h>
#include <linux/kernel.h>
#include <asm/apic.h>

static int __init set_lapic_timer_hz(char *text)
{
	unsigned int hz;
	int error = kstrtouint(text, 0, &hz);

	if (!error)
		lapic_timer_period = hz / HZ;
	return error;
}
early_param("lapic_timer_hz", set_lapic_timer_hz);
