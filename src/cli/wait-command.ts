/** The hidden command that a detached container leaves behind. */
export const waitCommand = "internal-wait";
