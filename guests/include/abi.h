/* THE numbers that a guest can see: memory map, ports, registers, status bits, ring flags, agent commands.
 *
 * Read by gcc for .S and .c guests, by the C core, by cffi, and by labkit/abi.py. So: `#define NAME literal` lines
 * and comments, nothing else. A number that a guest can see stands here and nowhere else.
 */
#ifndef LABKIT_ABI_H
#define LABKIT_ABI_H

/* -- version of everything below; a guest carries it in its header and the host refuses another ------------------- */
#define ABI_VERSION 1

/* -- guest-physical memory map (RAM is at least MEMORY_MIN_MIB) ---------------------------------------------------- */
#define MEMORY_MIN_MIB 16
#define MEMORY_MAX_MIB 2048
#define VCPUS_MAX 8
#define PAGE_BYTES 4096
#define GPA_PAGE_TABLES 0x1000      /* PML4, PDPT, 4 PDs: the first 4 GiB one to one, 2 MiB pages */
#define PAGE_TABLES_BYTES 0x6000
#define GPA_MULTIBOOT_INFO 0x9000   /* information structure, command line, loader name */
#define MULTIBOOT_INFO_BYTES 0x2000
#define GPA_STACKS 0x20000          /* stack of vCPU n ends at GPA_STACKS + (n + 1) << STACK_SHIFT */
#define STACK_SHIFT 13
#define GPA_MAILBOX 0x10000         /* one mailbox for each vCPU, MAILBOX_STRIDE apart */
#define MAILBOX_STRIDE 0x1000
#define GPA_IMAGE 0x100000          /* where the lab's own guests are linked */
#define IMAGE_MAX_BYTES 0x100000
#define GPA_RINGS 0x200000          /* ring of queue n: GPA_RINGS + n * RING_STRIDE */
#define RING_STRIDE 0x10000
#define GPA_BUFFERS 0x600000        /* data of request slot s: GPA_BUFFERS + s * BUFFER_STRIDE */
#define BUFFER_STRIDE 0x10000
#define GPA_REQUESTS 0xa00000       /* header and status byte of slot s: GPA_REQUESTS + s * REQUEST_STRIDE */
#define REQUEST_STRIDE 0x40
#define REQUEST_STATUS 0x20         /* offset of the status byte in a slot */
#define REQUEST_SLOTS 64            /* slot 0 belongs to CMD_REQUEST, the others to CMD_ADD and CMD_STORM */
#define GPA_INDIRECT 0xa04000       /* indirect table of slot s: GPA_INDIRECT + s * INDIRECT_STRIDE */
#define INDIRECT_STRIDE 0x40
#define GPA_JOURNAL 0xa10000        /* what the journal tells the host, see its section */
#define JOURNAL_BYTES 0x4000
#define GPA_MSIX_BAR 0xfebf0000     /* where the firmware puts BAR1 */
#define GPA_LAPIC 0xfee00000
#define GPA_IOAPIC 0xfec00000
#define IOAPIC_PINS 24

/* -- header of a lab guest, at GPA_IMAGE + LAB_HEADER: u32 magic, u32 ABI_VERSION, u64 64-bit entry, u64 end --------- */
#define LAB_HEADER 0x40
#define LAB_HEADER_VERSION 4
#define LAB_HEADER_ENTRY 8
#define LAB_HEADER_END 16           /* where its memory ends; what the file does not fill is zero */
#define LAB_MAGIC 0x4b42414c        /* "LABK" */

/* -- multiboot 1 ---------------------------------------------------------------------------------------------------- */
#define MULTIBOOT_HEADER_MAGIC 0x1badb002
#define MULTIBOOT_ENTRY_MAGIC 0x2badb002
#define MULTIBOOT_SEARCH_BYTES 8192
#define MULTIBOOT_FLAG_PAGE_ALIGN 0x1
#define MULTIBOOT_FLAG_MEMORY 0x2
#define MULTIBOOT_FLAG_ADDRESSES 0x10000
#define MULTIBOOT_INFO_MEMORY 0x1
#define MULTIBOOT_INFO_CMDLINE 0x4
#define MULTIBOOT_INFO_MMAP 0x40
#define MULTIBOOT_INFO_LOADER 0x200

/* -- ports of the lab ------------------------------------------------------------------------------------------------ */
#define PORT_CONSOLE 0xe9           /* out: one character; in: reads PORT_CONSOLE, "a console is there" */
#define PORT_EXIT 0xf4              /* out v: the machine ends with exit code (v << 1) | 1 */
#define PORT_PARK 0x5a0             /* in, 32 bits: waits for the host's next command; CMD_NONE: ask again */
#define PARK_NOBODY 0xffffffff      /* what a machine without the lab answers at PORT_PARK */
#define PORT_PCI_ADDRESS 0xcf8
#define PORT_PCI_DATA 0xcfc

/* -- COM1, a 16550: how a machine without the lab tells the agent its steps ------------------------------------------- */
#define PORT_SERIAL 0x3f8           /* registers below are offsets from it */
#define UART_DATA 0
#define UART_DIVISOR_LOW 0          /* these two while UART_DIVISOR_LATCH is set */
#define UART_DIVISOR_HIGH 1
#define UART_INTERRUPT_ENABLE 1
#define UART_FIFO_CONTROL 2
#define UART_LINE_CONTROL 3
#define UART_LINE_STATUS 5
#define UART_FIFO_ON_AND_EMPTY 0x07
#define UART_8_BITS 0x03
#define UART_DIVISOR_LATCH 0x80
#define UART_HAS_RECEIVED 0x01
#define UART_CAN_SEND 0x20

/* -- mailbox: 64-bit slots, offsets from its start ------------------------------------------------------------------ */
#define MB_ARGS 0x00                /* 8 arguments, host -> guest */
#define MB_RESULTS 0x40             /* 8 results, guest -> host */
#define MB_STATUS 0x80              /* AGENT_OK or why the step failed */
#define MB_SAMPLES 0x100            /* up to MB_SAMPLES_MAX 64-bit samples */
#define MB_SAMPLES_MAX 480
#define MB_SLOTS 8

/* -- agent: what a step answers in MB_STATUS ------------------------------------------------------------------------ */
#define AGENT_OK 0
#define AGENT_UNKNOWN_COMMAND 1
#define AGENT_NO_DEVICE 2           /* the PCI scan found no legacy virtio device, or nothing was negotiated yet */
#define AGENT_NO_QUEUE 3            /* the device has no such queue, or its ring is not set up */
#define AGENT_RING_FULL 4           /* no free descriptors or request slots */
#define AGENT_TIMEOUT 5             /* the device did not answer within the given TSC ticks */
#define AGENT_BAD_ARGUMENT 6
#define AGENT_BAD_USED 7            /* the device returned a head that was not in flight */
#define AGENT_NO_FEATURE 8          /* it takes a feature that was not accepted */

/* -- agent: commands (a0.. arguments, r0.. results) ------------------------------------------------------------------ */
#define CMD_NONE 0
#define CMD_NEGOTIATE 1    /* a0 IRQ_*, a1 feature mask, a2 queue limit (0: all), a3 1: and DRIVER_OK -> r0 offered, r1 accepted, r2 queues, r3 BAR0, r4 status */
#define CMD_SET_STATUS 2   /* a0 value, as it is -> r0 STATUS read back */
#define CMD_DRIVER_OK 3    /* a0 1: set, 0: clear, in the status as it stands -> r0 STATUS read back */
#define CMD_ADD 4          /* a0 queue, a1 type, a2 sector, a3 bytes, a4 1: in an indirect table -> r0 head, r1 slot, r2 buffer gpa */
#define CMD_PUBLISH 5      /* a0 queue, a1 PUBLISH_* -> r0 avail.idx, r1 published, r2 1: the device wants a kick */
#define PUBLISH_ONLY 0
#define PUBLISH_AND_KICK 1 /* if the device wants that */
#define PUBLISH_BEGIN 2    /* of PUBLISH_AND_KICK: avail.idx is stored. With the option "barrier=none": the device's wish is read */
#define PUBLISH_END 3      /* the wish is read, and the kick; with that option: avail.idx is stored, and the kick */
#define CMD_KICK 6         /* a0 queue, a1 times -> r0 TSC ticks of all */
#define CMD_WAIT 7         /* a0 queue, a1 completions, a2 TSC ticks -> r0 reaped, r1 head, r2 used.len, r3 status byte, r4 interrupts, r5 slot */
#define CMD_REQUEST 8      /* a0 queue, a1 type, a2 sector, a3 bytes, a4 TSC ticks -> r0 status byte, r1 used.len, r2 TSC ticks, r3 interrupts */
#define CMD_BUS_MASTER 9   /* a0 1: on, 0: off, BUS_MASTER_AS_IT_IS: COMMAND is written as it was read -> r0 COMMAND read back */
#define BUS_MASTER_AS_IT_IS 2
#define CMD_PORT_IN 10     /* a0 port, a1 width 1|2|4 -> r0 value */
#define CMD_PORT_OUT 11    /* a0 port, a1 width, a2 value */
#define CMD_PCI_READ 12    /* a0 offset in the device's config space, a1 width -> r0 value */
#define CMD_PCI_WRITE 13   /* a0 offset, a1 width, a2 value */
#define CMD_LOAD 14        /* a0 gpa, a1 width 1|2|4|8 -> r0 value */
#define CMD_STORE 15       /* a0 gpa, a1 width, a2 value */
#define CMD_KICK_LOOP 16   /* a0 port, a1 width, a2 value, a3 batches, a4 kicks in each -> samples: TSC ticks of each batch */
#define CMD_STORM 17       /* a0 queue, a1 requests, a2 depth, a3 type, a4 bytes, a5 vCPUs | STORM_THINK, a6 TSC ticks, a7 sectors on the disk
                              -> r0 TSC ticks, r1 completed, r2 errors, r3 kicks, r4 interrupts, r5 ticks in kicks, r6 ticks waiting for the lock,
                              r7 ticks this vCPU took part */
#define STORM_THINK 32     /* a5 >> STORM_THINK: TSC ticks a vCPU works on each completion, outside the lock */
#define CMD_RESET 18       /* STATUS = 0 and the driver forgets everything -> r0 STATUS read back */
#define CMD_FAULT 19       /* a0 FAULT_*: break on purpose */
#define CMD_ADD_BUFFERS 20 /* a0 queue, a1 bytes the device reads, a2 bytes it writes -> r0 head, r1 slot, r2 gpa of the first; the second follow */
#define CMD_LAST 20

/* -- journal: the words at GPA_JOURNAL, 64 bits each, offsets from there ---------------------------------------------- */
#define JOURNAL_MAGIC 0x4c4e524a    /* "JRNL": the first word, once the rest is valid */
#define JOURNAL_STATE 0x08          /* JOURNAL_UP, _STOPPED or _FAILED */
#define JOURNAL_STOP 0x10           /* host -> guest: not 0: stop */
#define JOURNAL_SPAN 0x18           /* sectors in use, from sector 0 */
#define JOURNAL_SUBMITTED 0x20      /* the last seq that may be on the disk */
#define JOURNAL_ACKED 0x28          /* writes the device has answered with OK */
#define JOURNAL_VERIFIED 0x30       /* reads that brought what they should */
#define JOURNAL_TABLE 0x40          /* of each sector of the span: the seq last acknowledged there, 0: none */
#define JOURNAL_SPAN_MAX 1024
#define JOURNAL_DEPTH_MAX 8
#define JOURNAL_UP 1
#define JOURNAL_STOPPED 2
#define JOURNAL_FAILED 3

/* -- journal: a block on its disk, 64-bit words, offsets in the sector ------------------------------------------------- */
#define JOURNAL_BLOCK_MAGIC 0x4b434f4c424c4e4a /* "JNLBLOCK": the first word */
#define JOURNAL_BLOCK_SECTOR 0x08   /* where it belongs */
#define JOURNAL_BLOCK_SEQ 0x10      /* of all writes so far */
#define JOURNAL_BLOCK_BODY 0x18     /* one word, again and again: (seq << JOURNAL_SEQ_SHIFT | sector) * JOURNAL_MIX */
#define JOURNAL_BLOCK_SUM 0x1f8     /* the sum of all words before it */
#define JOURNAL_SEQ_SHIFT 16
#define JOURNAL_MIX 0x9e3779b97f4a7c15 /* odd, so that no two blocks have the same body */

#define IRQ_POLL 0
#define IRQ_MSIX 1
#define IRQ_INTX 2

#define FAULT_TRIPLE 1     /* no IDT, then an exception */
#define FAULT_SPIN 2       /* jump to itself, interrupts off */
#define FAULT_HALT 3       /* hlt with interrupts off */
#define FAULT_NO_MEMORY 4  /* read an address where there is no RAM and no device */

/* -- PCI -------------------------------------------------------------------------------------------------------------- */
#define PCI_VENDOR_ID 0x00
#define PCI_DEVICE_ID 0x02
#define PCI_COMMAND 0x04
#define PCI_STATUS 0x06
#define PCI_REVISION 0x08
#define PCI_CLASS 0x0a
#define PCI_HEADER_TYPE 0x0e
#define PCI_BAR0 0x10
#define PCI_BAR1 0x14
#define PCI_SUBSYSTEM_VENDOR 0x2c
#define PCI_SUBSYSTEM_ID 0x2e
#define PCI_CAPABILITIES 0x34
#define PCI_INTERRUPT_LINE 0x3c
#define PCI_INTERRUPT_PIN 0x3d
#define PCI_INTERRUPT_PIN_A 1
#define INTX_PIN 11                 /* where INTA of the device ends: pin of the I/O APIC, and PCI_INTERRUPT_LINE */
#define PCI_CONFIG_BYTES 256
#define PCI_CONFIG_ENABLE 0x80000000
#define PCI_COMMAND_IO 0x1
#define PCI_COMMAND_MEMORY 0x2
#define PCI_COMMAND_MASTER 0x4
#define PCI_COMMAND_INTX_DISABLE 0x400
#define PCI_STATUS_INTERRUPT 0x8
#define PCI_STATUS_CAPABILITIES 0x10
#define PCI_BAR_IO 0x1
#define PCI_CAP_MSIX 0x11
#define VIRTIO_SLOT 1               /* device number of the virtio device on bus 0 */
#define BAR0_FIRST 0xc000           /* where the firmware puts BAR0 */

#define MSIX_CAP_OFFSET 0x40
#define MSIX_CONTROL 2              /* offsets in the capability */
#define MSIX_TABLE 4
#define MSIX_PBA 8
#define MSIX_CONTROL_SIZE 0x7ff     /* vectors - 1 */
#define MSIX_CONTROL_ENABLE 0x8000
#define MSIX_CONTROL_MASK_ALL 0x4000
#define MSIX_BAR 1
#define MSIX_BAR_BYTES 4096
#define MSIX_PBA_OFFSET 0x800
#define MSIX_ENTRY_BYTES 16
#define MSIX_ENTRY_ADDRESS 0
#define MSIX_ENTRY_DATA 8
#define MSIX_ENTRY_CONTROL 12
#define MSIX_ENTRY_MASKED 0x1
#define MSIX_VECTORS_MAX 32
#define NO_VECTOR 0xffff

/* -- legacy virtio-pci: ids and registers of BAR0 --------------------------------------------------------------------- */
#define VIRTIO_VENDOR 0x1af4
#define VIRTIO_DEVICE_NET 0x1000
#define VIRTIO_DEVICE_BLK 0x1001
#define VIRTIO_DEVICE_CONSOLE 0x1003
#define VIRTIO_DEVICE_OWN 0x103e    /* a device written by a user, unless it says otherwise */
#define VIRTIO_DEVICE_NULL 0x103f   /* the last id of the legacy range: the lab's device that does nothing */
#define VIRTIO_TYPE_NET 1
#define VIRTIO_TYPE_BLK 2
#define VIRTIO_TYPE_CONSOLE 3
#define VIRTIO_TYPE_OWN 62
#define VIRTIO_TYPE_NULL 63

#define REG_HOST_FEATURES 0
#define REG_GUEST_FEATURES 4
#define REG_QUEUE_PFN 8
#define REG_QUEUE_NUM 12
#define REG_QUEUE_SEL 14
#define REG_QUEUE_NOTIFY 16
#define REG_STATUS 18
#define REG_ISR 19
#define REG_MSI_CONFIG_VECTOR 20
#define REG_MSI_QUEUE_VECTOR 22
#define REG_CONFIG_NO_MSIX 20
#define REG_CONFIG_MSIX 24

#define STATUS_ACKNOWLEDGE 0x01
#define STATUS_DRIVER 0x02
#define STATUS_DRIVER_OK 0x04
#define STATUS_FAILED 0x80

#define ISR_QUEUE 0x1
#define ISR_CONFIG 0x2

#define FEATURE_NOTIFY_ON_EMPTY 24  /* bit numbers */
#define FEATURE_INDIRECT_DESC 28
#define FEATURE_EVENT_IDX 29
#define FEATURE_BAD_FEATURE 30

#define QUEUE_MAX 64
#define QUEUE_SIZE_MAX 1024
#define QUEUE_PFN_SHIFT 12
#define QUEUE_NOTIFY_WIDTH 2

/* -- split ring ------------------------------------------------------------------------------------------------------- */
#define RING_ALIGN 4096
#define DESC_BYTES 16
#define DESC_NEXT 0x1
#define DESC_WRITE 0x2
#define DESC_INDIRECT 0x4
#define AVAIL_NO_INTERRUPT 0x1
#define USED_NO_NOTIFY 0x1
#define USED_ELEMENT_BYTES 8

/* -- virtio-blk ------------------------------------------------------------------------------------------------------- */
#define BLK_QUEUE_SIZE 128
#define BLK_VECTORS 2
#define BLK_F_SEG_MAX 2             /* bit numbers */
#define BLK_F_GEOMETRY 4
#define BLK_F_RO 5
#define BLK_F_BLK_SIZE 6
#define BLK_F_FLUSH 9
#define BLK_CONFIG_CAPACITY 0       /* offsets in the device config */
#define BLK_CONFIG_SEG_MAX 12
#define BLK_CONFIG_GEOMETRY 16
#define BLK_CONFIG_BLK_SIZE 20
#define BLK_CONFIG_BYTES 24
#define BLK_T_IN 0
#define BLK_T_OUT 1
#define BLK_T_FLUSH 4
#define BLK_T_GET_ID 8
#define BLK_S_OK 0
#define BLK_S_IOERR 1
#define BLK_S_UNSUPP 2
#define BLK_HEADER_BYTES 16
#define BLK_ID_BYTES 20
#define SECTOR_BYTES 512

/* -- virtio-net ------------------------------------------------------------------------------------------------------- */
#define NET_RX 0                    /* queues */
#define NET_TX 1
#define NET_CTRL 2
#define NET_QUEUE_SIZE 256
#define NET_CTRL_QUEUE_SIZE 64
#define NET_VECTORS 3
#define NET_F_MAC 5                 /* bit numbers */
#define NET_F_STATUS 16
#define NET_F_CTRL_VQ 17
#define NET_F_CTRL_RX 18
#define NET_CONFIG_MAC 0            /* offsets in the device config */
#define NET_CONFIG_STATUS 6
#define NET_CONFIG_BYTES 8
#define NET_S_LINK_UP 0x1
#define NET_HEADER_BYTES 10         /* before each frame; all zero here: no offload is offered */
#define NET_FRAME_MAX 1514          /* Ethernet header and 1500 bytes */
#define NET_CTRL_CLASS_RX 0
#define NET_CTRL_RX_PROMISC 0
#define NET_CTRL_RX_ALLMULTI 1
#define NET_CTRL_OK 0
#define NET_CTRL_ERR 1
#define MAC_BYTES 6

/* -- virtio-console ----------------------------------------------------------------------------------------------------- */
#define CONSOLE_INPUT 0             /* queues: to the guest ... */
#define CONSOLE_OUTPUT 1            /* ... and from it */
#define CONSOLE_QUEUE_SIZE 128
#define CONSOLE_VECTORS 2
#define CONSOLE_F_SIZE 0            /* bit number */
#define CONSOLE_CONFIG_COLUMNS 0    /* offsets in the device config */
#define CONSOLE_CONFIG_ROWS 2
#define CONSOLE_CONFIG_BYTES 4

#define NULL_QUEUE_SIZE 128

#endif
